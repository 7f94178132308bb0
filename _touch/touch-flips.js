// How often influences change their sign, against ridge and width, for the network with attention and the plain one.
faultlinesTouch.figures.flips = (place, { ridges, width: units, eps, shares, random, subsets, data }) => {
  const { make, frame, slider, radios, status, picture } = faultlinesTouch;
  const kinds = { finite: `${units.toLocaleString("en")} units`, infinite: "infinitely many units" };
  const arms = ["attention", "plain"];
  const body = frame(place, "Touch it: how many influences can be turned over?",
    "Move the ridge along the axis by the slider or in the picture, and change the width of the network.");
  const left = make("div", { class: "fl-touch-half fl-touch-wide" });
  const right = make("div", { class: "fl-touch-half" });
  body.append(left, right);
  const now = { at: 0, kind: "finite", question: "top" };

  const [wide, high, edge] = [350, 280, { left: 42, right: 10, top: 16, bottom: 46 }];
  const svg = picture(left, wide, high, "Share of influences that change their sign, in per cent, against the ridge", "group");
  const logs = ridges.map(Math.log10);
  const x = d3.scaleLinear([logs[0] - 0.25, logs.at(-1) + 0.15], [edge.left, wide - edge.right]);
  const y = d3.scaleLinear([0, 55], [high - edge.bottom, edge.top]);
  for (const tick of [0, 10, 20, 30, 40, 50]) {
    svg.append("path").attr("class", tick === 50 ? "fl-touch-limit" : "fl-touch-grid").attr("d", `M${edge.left} ${y(tick)}H${wide - edge.right}`);
    svg.append("text").attr("class", "fl-touch-small").attr("x", edge.left - 7).attr("y", y(tick) + 4).attr("text-anchor", "end").text(`${tick} %`);
  }
  svg.append("text").attr("class", "fl-touch-small").attr("x", wide - edge.right).attr("y", y(50) - 5).attr("text-anchor", "end").text("a coin would turn half");
  ridges.forEach((ridge, n) => svg.append("text").attr("class", "fl-touch-small").attr("x", x(logs[n])).attr("y", y(0) + 17).attr("text-anchor", "middle").text(ridge));
  svg.append("text").attr("class", "fl-touch-text").attr("x", (edge.left + wide - edge.right) / 2).attr("y", high - 8).attr("text-anchor", "middle").text("ridge");
  const cursor = svg.append("path").attr("class", "fl-touch-cursor");
  const cloud = svg.append("g");
  const curves = svg.append("g");
  const marks = svg.append("g");

  const line = d3.line((d, n) => x(logs[n]), (d) => y(d));
  const draw = () => {
    const of = shares[now.question];
    const drawn = Object.keys(kinds).flatMap((kind) => arms.map((arm) => ({ kind, arm, values: of[`${kind} ${arm}`], on: kind === now.kind })));
    drawn.sort((a, b) => a.on - b.on);
    curves.selectAll("path").data(drawn).join("path").attr("d", (d) => line(d.values))
      .attr("class", (d) => `fl-touch-curve fl-touch-stroke-${d.arm} ${d.on ? "" : "fl-touch-faint"}`)
      .attr("stroke-dasharray", (d) => (d.kind === "infinite" ? "7 4" : null));
    const chosen = drawn.filter((d) => d.on);
    const dots = chosen.flatMap((d) => d.values.map((value, n) => ({ value, n, arm: d.arm })));
    marks.selectAll("circle").data(dots).join("circle").attr("cx", (d) => x(logs[d.n])).attr("cy", (d) => y(d.value))
      .attr("r", (d) => (d.n === now.at ? 7 : 4)).attr("class", (d) => `fl-touch-fill-${d.arm}`);
    // single subsets, where the ledger has them
    const single = now.question === "top" ? arms.flatMap((arm) => (subsets[`${now.kind} ${arm}`] || []).map((value) => ({ value, arm }))) : [];
    cloud.selectAll("circle").data(single).join("circle").attr("cx", (d, n) => x(logs[0]) - 16 + 2 * ((n * 5) % 7) - 6).attr("cy", (d) => y(d.value))
      .attr("r", 2.2).attr("class", (d) => `fl-touch-fill-${d.arm} fl-touch-faint`);
    cursor.attr("d", `M${x(logs[now.at])} ${y(0)}V${y(50)}`);
    const value = Object.fromEntries(chosen.map((d) => [d.arm, d.values[now.at]]));
    for (const arm of arms) bars[arm](value[arm]);
    Object.assign(place.dataset, { ridge: ridges[now.at], kind: now.kind, question: now.question, attention: value.attention, plain: value.plain });
    const times = value.plain >= 0.2 ? value.attention / value.plain : NaN;
    const who = Number.isNaN(times) ? "" : times >= 1 ? ` ${times < 10 ? times.toFixed(1) : Math.round(times)} times as many with attention.`
      : value.attention < 0.2 ? " With attention hardly any." : ` ${(1 / times).toFixed(1)} times as many without attention.`;
    const noise = now.at === 0 && now.question === "top" && `${now.kind} attention` in random
      ? ` Random signs of the same size turn ${random[`${now.kind} attention`]} % with attention and ${random[`${now.kind} plain`]} % without.` : "";
    said.textContent = `Ridge ${ridges[now.at]}, ${kinds[now.kind]}: ${value.attention} % with attention, ${value.plain} % without.${who}${noise}`;
  };

  // the two shares at the ridge chosen
  const chart = picture(right, 300, 108, "The two shares at the ridge chosen", "img");
  const across = d3.scaleLinear([0, 50], [0, 240]);
  const bars = Object.fromEntries(arms.map((arm, n) => {
    chart.append("text").attr("class", "fl-touch-text").attr("y", 15 + 52 * n).text(arm === "plain" ? "plain network" : "with attention");
    chart.append("rect").attr("class", "fl-touch-track").attr("y", 21 + 52 * n).attr("width", 240).attr("height", 17).attr("rx", 2);
    const bar = chart.append("rect").attr("class", `fl-touch-fill-${arm}`).attr("y", 21 + 52 * n).attr("height", 17).attr("rx", 2);
    const text = chart.append("text").attr("class", "fl-touch-text fl-touch-number").attr("x", 300).attr("y", 34 + 52 * n).attr("text-anchor", "end");
    return [arm, (value) => { bar.attr("width", Math.max(1, across(Math.min(50, value)))); text.text(`${value.toFixed(1)} %`); }];
  }));
  const controls = make("div", { class: "fl-touch-controls" });
  right.append(controls);
  const ridge = slider(controls, { name: "ridge", label: "Ridge, the weight of the penalty", min: 0, max: ridges.length - 1, step: 1, value: 0,
    show: (n) => String(ridges[n]), change: (n) => { now.at = n; draw(); } });
  radios(controls, { name: "width", legend: "Width of the network", value: now.kind, choices: Object.entries(kinds), change: (kind) => { now.kind = kind; draw(); } });
  radios(controls, { name: "question", legend: "Of which training images", value: now.question, change: (q) => { now.question = q; draw(); },
    choices: [["top", "the most influential of each test image"], ["attacked", "those that were attacked"]] });
  const said = status(left);
  left.append(make("p", { class: "fl-touch-source" }, `PGD of size ${eps} on training images, ${data}; means over subsets, read off the figure above to about half a point, at a ridge of ${ridges[0]} from the table. `
    + (Object.keys(subsets).length ? "Small dots: single subsets, from the ledger. " : "") + "Faint: the other width; dashed: infinite width."));

  svg.call(d3.drag().on("start drag", (event) => {
    const value = x.invert(event.x);
    now.at = d3.minIndex(logs, (v) => Math.abs(v - value));
    ridge.set(now.at);
    draw();
  }));
  draw();
};
