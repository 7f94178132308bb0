// Theorem 2: how much longer the gradient of A1 - lambda A2 is than that of standard attention, over angle, lambda, rho.
faultlinesTouch.figures.differential = (place, { layers, gamma: median }) => {
  const { make, frame, slider, button, status, picture, minus } = faultlinesTouch;
  const ratio = (gamma, product, cosine) => gamma * Math.sqrt(Math.max(0, 1 + product * product - 2 * product * cosine));
  const threshold = (gamma, product) => (1 + product * product - 1 / (gamma * gamma)) / (2 * product);
  faultlinesTouch.differential = { ratio, threshold };

  const body = frame(place, "Touch it: when is differential attention the more sensitive one?",
    "Drag the ring, move a slider, or step through the layers of the trained networks.");
  const left = make("div", { class: "fl-touch-half" });
  const right = make("div", { class: "fl-touch-half" });
  body.append(left, right);
  const now = { angle: 60, lambda: 0.8, rho: 1.2, gamma: median };
  const product = () => now.lambda * now.rho;
  const cosine = () => Math.cos((now.angle * Math.PI) / 180);

  // the map
  const [width, height, edge] = [310, 300, { left: 34, right: 8, top: 10, bottom: 74 }];
  const svg = picture(left, width, height, "The ratio of Theorem 2 over the cosine of the angle and lambda rho", "group");
  const x = d3.scaleLinear([-1, 1], [edge.left, width - edge.right]);
  const y = d3.scaleLinear([0, 3], [height - edge.bottom, edge.top]);
  const shades = svg.append("g");
  const line = svg.append("path").attr("class", "fl-touch-white");
  const word = svg.append("text").attr("class", "fl-touch-onmap");
  for (const tick of [-1, -0.5, 0, 0.5, 1])
    svg.append("text").attr("class", "fl-touch-small").attr("x", x(tick)).attr("y", y(0) + 17).attr("text-anchor", tick === 1 ? "end" : "middle").text(minus(String(tick)));
  for (const tick of [0, 1, 2, 3])
    svg.append("text").attr("class", "fl-touch-small").attr("x", edge.left - 7).attr("y", y(tick) + 4).attr("text-anchor", "end").text(tick);
  svg.append("text").attr("class", "fl-touch-text").attr("x", x(0)).attr("y", y(0) + 34).attr("text-anchor", "middle").text("cos θ");
  svg.append("text").attr("class", "fl-touch-text").attr("transform", `translate(12 ${y(1.5)}) rotate(-90)`).attr("text-anchor", "middle").text("λρ");
  const most = 3;
  const colour = (n) => d3.interpolateCividis(1 - n / 15);
  const bar = svg.append("g").attr("transform", `translate(${x(0) - 120} ${height - 17})`);
  bar.selectAll("rect").data(d3.range(16)).join("rect").attr("x", (n) => n * 15).attr("width", 15.3).attr("height", 9).attr("fill", colour);
  for (const [n, words] of [[0, "0"], [80, "1"], [160, "2"], [240, "ratio 3"]])
    bar.append("text").attr("class", "fl-touch-small").attr("x", n).attr("y", -3).attr("text-anchor", n === 240 ? "end" : n ? "middle" : "start").text(words);

  const paint = () => {
    const [columns, lines] = [100, 75];
    const field = [];
    for (let j = 0; j < lines; j += 1) for (let i = 0; i < columns; i += 1)
      field.push(ratio(now.gamma, ((j + 0.5) / lines) * 3, -1 + (2 * (i + 0.5)) / columns));
    const path = d3.geoPath(d3.geoTransform({ point(i, j) {
      this.stream.point(x(-1 + (2 * i) / columns), y((j / lines) * 3));
    } }));
    const steps = [-1, ...d3.range(1, 16).map((n) => (most * n) / 15)];
    shades.selectAll("path").data(d3.contours().size([columns, lines]).thresholds(steps)(field)).join("path").attr("d", path).attr("fill", (d, n) => colour(n));
    const points = d3.range(0.01, 3.0001, 0.01).map((v) => [threshold(now.gamma, v), v]).filter(([c]) => Math.abs(c) <= 1);
    line.attr("d", d3.line()(points.map(([c, v]) => [x(c), y(v)])));
    const low = points.at(-1);
    word.attr("display", low ? null : "none");
    if (low) word.attr("x", Math.max(x(-1) + 74, Math.min(x(low[0]) - 8, x(1) - 8))).attr("y", y(low[1]) + 24).attr("text-anchor", "end").text("ratio 1");
  };

  const dots = svg.append("g").selectAll("circle").data(layers).join("circle").attr("cx", (d) => x(d[0])).attr("cy", (d) => y(d[1]))
    .attr("r", 3.6).attr("class", (d) => `fl-touch-dot ${d[2] ? "fl-touch-full" : ""}`);
  const ring = svg.append("g").attr("class", "fl-touch-handle").attr("tabindex", 0).attr("role", "slider")
    .attr("aria-label", "Angle and lambda rho, moved by the arrow keys").attr("aria-valuemin", 0).attr("aria-valuemax", 4);
  ring.append("circle").attr("r", 22).attr("fill", "transparent");
  ring.append("circle").attr("r", 9.5).attr("class", "fl-touch-halo");
  ring.append("circle").attr("r", 9.5).attr("class", "fl-touch-ring");
  const key = make("p", { class: "fl-touch-source" });
  key.innerHTML = "● a trained layer at one image, really more sensitive than the paired ViT’s; ○ really less. Their places were read off the figure above.";

  // the triangle of gradients
  const arrows = picture(right, 310, 150, "The gradients of the two branches as arrows, and their difference", "img");
  const marker = `fl-tip-${Math.random().toString(36).slice(2)}`;
  const tips = arrows.append("defs").selectAll("marker").data(["one", "two", "sum"]).join("marker").attr("id", (d) => `${marker}-${d}`)
    .attr("viewBox", "0 0 10 10").attr("refX", 9).attr("refY", 5).attr("markerWidth", 6).attr("markerHeight", 6).attr("orient", "auto");
  tips.append("path").attr("d", "M0 0L10 5L0 10Z").attr("class", (d) => `fl-touch-fill-${d}`);
  const drawn = Object.fromEntries(["one", "two", "sum"].map((name) => [name, {
    arrow: arrows.append("path").attr("class", `fl-touch-arrow fl-touch-stroke-${name}`).attr("marker-end", `url(#${marker}-${name})`),
    text: arrows.append("text").attr("class", `fl-touch-text fl-touch-fill-${name}`),
  }]));

  const said = status(left);
  left.append(key);
  const controls = make("div", { class: "fl-touch-controls" });
  right.append(controls);
  const tell = (v) => v.toFixed(2);
  const sliders = {
    angle: slider(controls, { name: "angle", label: "θ, angle between the branches’ gradients", min: 0, max: 180, step: 1, value: now.angle, show: (v) => `${v}°`, change: (v) => change({ angle: v }) }),
    lambda: slider(controls, { name: "lambda", label: "λ, weight of the second branch", min: 0, max: 1, step: 0.01, value: now.lambda, show: tell, change: (v) => change({ lambda: v }) }),
    rho: slider(controls, { name: "rho", label: "ρ, its gradient’s length over the first’s", min: 0, max: 3, step: 0.01, value: now.rho, show: tell, change: (v) => change({ rho: v }) }),
    gamma: slider(controls, { name: "gamma", label: "γ, the first’s length over standard attention’s", min: 0.2, max: 1.5, step: 0.01, value: now.gamma, show: tell, change: (v) => change({ gamma: v }) }),
  };
  const steps = make("div", { class: "fl-touch-buttons", role: "group", "aria-label": "Layers of the trained networks" });
  controls.append(steps);
  const order = d3.range(layers.length).sort((a, b) => layers[a][1] - layers[b][1]);
  let at = -1;
  const visit = (by) => {
    at = (at + by + layers.length + (at < 0 && by < 0 ? 1 : 0)) % layers.length;
    const [c, v] = layers[order[at]];
    const lambda = now.lambda > 0.6 && v / now.lambda <= 3 ? now.lambda : 0.8;
    change({ angle: (Math.acos(c) * 180) / Math.PI, lambda, rho: v / lambda }, true);
  };
  button(steps, "‹ layer before", () => visit(-1), "before");
  button(steps, "next layer ›", () => visit(1), "next");
  if (median !== 1) button(steps, "γ = 1", () => change({ gamma: 1 }), "one");
  button(steps, `γ = ${median}, their median`, () => change({ gamma: median }), "median");

  const change = (to, visiting = false) => {
    Object.assign(now, to);
    if (!visiting && !("gamma" in to)) at = -1;
    for (const name of Object.keys(sliders)) if (!(name in to) || Object.keys(to).length > 1 || visiting || name === "gamma") sliders[name].set(now[name]);
    const [c, v] = [cosine(), product()];
    const r = ratio(now.gamma, v, c);
    if ("gamma" in to) paint();
    ring.attr("transform", `translate(${x(c)} ${y(Math.min(3, v))})`).attr("aria-valuenow", r.toFixed(3))
      .attr("aria-valuetext", `cosine ${c.toFixed(2)}, lambda rho ${v.toFixed(2)}, ratio ${r.toFixed(2)}`);
    place.dataset.ratio = r;
    place.dataset.cosine = c;
    place.dataset.product = v;
    dots.classed("fl-touch-here", (d, n) => at >= 0 && n === order[at]);
    // the three corners, fitted into the picture
    const turn = (now.angle * Math.PI) / 180;
    const ends = [[0, 0], [1, 0], [v * c, v * Math.sin(turn)]];
    const [wide, tall] = [d3.extent(ends, (d) => d[0]), d3.extent(ends, (d) => d[1])];
    const scale = Math.min(170 / (wide[1] - wide[0]), 104 / Math.max(tall[1], 0.01), 110);
    const [from, tip1, tip2] = ends.map(([i, j]) => [130 + (i - (wide[0] + wide[1]) / 2) * scale, 126 - j * scale]);
    const draw = (name, a, b, words, dx, dy, anchor) => {
      drawn[name].arrow.attr("d", `M${a}L${b}`).attr("visibility", Math.hypot(b[0] - a[0], b[1] - a[1]) < 3 ? "hidden" : null);
      drawn[name].text.attr("x", (a[0] + b[0]) / 2 + dx).attr("y", (a[1] + b[1]) / 2 + dy).attr("text-anchor", anchor).text(words);
    };
    draw("one", from, tip1, "∇A₁", 0, 18, "middle");
    draw("two", from, tip2, "λ∇A₂", -10, 0, "end");
    draw("sum", tip2, tip1, `difference, ${(r / now.gamma).toFixed(2)} × ∇A₁`, 10, -8, "start");
    const limit = threshold(now.gamma, v);
    const side = r > 1 ? "more sensitive than standard attention" : "less sensitive than standard attention";
    const inside = layers.filter((d) => ratio(now.gamma, d[1], d[0]) > 1).length;
    const really = layers.filter((d) => d[2]).length;
    const here = at >= 0 ? `Layer ${at + 1} of ${layers.length}: cos θ ${minus(c.toFixed(2))}, λρ ${v.toFixed(2)}. In the run, with its own γ, it is ${layers[order[at]][2] ? "more" : "less"} sensitive than its ViT’s. With the γ set here: ratio` : "Ratio";
    const where = v === 0 ? "" : limit > 1 ? ", as at any angle with this λρ" : limit < -1 ? ", as at any angle with this λρ" : `; with this λρ it is more sensitive where cos θ < ${minus(limit.toFixed(2))}`;
    said.textContent = `${here} ${r.toFixed(2)}, ${side}${where}. ${inside} of the ${layers.length} layers would be more sensitive with this γ; ${really} are, with each its own.`;
  };
  svg.call(d3.drag().on("start drag", (event) => {
    const c = Math.max(-1, Math.min(1, x.invert(event.x)));
    const v = Math.max(0, Math.min(3, y.invert(event.y)));
    const lambda = now.lambda > 0.05 && v / now.lambda <= 3 ? now.lambda : Math.max(0.8, v / 3);
    change({ angle: (Math.acos(c) * 180) / Math.PI, lambda, rho: v / lambda });
  }));
  ring.on("keydown", (event) => {
    const step = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 5 : 1;
    const lambda = now.lambda > 0.05 ? now.lambda : 0.8;
    change({ lambda, angle: Math.max(0, Math.min(180, now.angle + 2 * far * step[0])), rho: Math.max(0, Math.min(3, now.rho + 0.03 * far * step[1])) });
  });
  change({ gamma: median });
};
