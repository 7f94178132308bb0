// A row of attention over three tokens: drag it over the triangle of all rows, and read how softmax answers there.
faultlinesTouch.figures.softmax = (place) => {
  const { make, frame, slider, radios, button, status, picture } = faultlinesTouch;

  // J(p) = diag(p) - p p^T has the eigenvalue 0; the two others have the sum t and the product 3 p1 p2 p3
  const values = (p) => {
    const [a, b, c] = [...p].sort((x, y) => y - x);
    const trace = a * (b + c) + b * (1 - b) + c * (1 - c);
    const norm = (trace + Math.sqrt(Math.max(0, trace * trace - 12 * a * b * c))) / 2;
    const root = Math.hypot((a - b) * (b + c - b), 2 * a * b);
    return {
      lower: (a * (b + c) + b * (1 - b) + root) / 2,
      norm,
      g1: a * (b + c + b),
      gershgorin: Math.max(2 * a * (b + c), 2 * b * (1 - b), 2 * c * (1 - c)),
      frobenius: Math.sqrt(p.reduce((sum, x) => sum + x * x * (1 - x) * (1 - x), 0) + 2 * (a * a * b * b + a * a * c * c + b * b * c * c)),
      trace,
    };
  };
  faultlinesTouch.softmax = values;

  const body = frame(place, "Touch it: three tokens share one row of attention",
    "Drag the ring over the triangle, or move a slider: the two other probabilities keep their ratio.");
  const left = make("div", { class: "fl-touch-half" });
  const right = make("div", { class: "fl-touch-half" });
  body.append(left, right);

  // the triangle, in its own coordinates
  const [side, pad] = [232, 30];
  const high = (side * Math.sqrt(3)) / 2;
  const corners = [[pad, pad + high], [pad + side, pad + high], [pad + side / 2, pad]]; // where p is one of the three
  const spot = (p) => [0, 1].map((axis) => p.reduce((sum, share, n) => sum + share * corners[n][axis], 0));
  const row = ([x, y]) => {
    const third = (pad + high - y) / high;
    const second = (x - pad) / side - third / 2;
    return [1 - second - third, second, third];
  };
  const inside = (p) => { // the nearest row, for a pointer that left the triangle
    const sorted = [...p].sort((x, y) => y - x);
    let [sum, shift] = [0, 0];
    sorted.forEach((x, n) => { sum += x; if (x - (sum - 1) / (n + 1) > 0) shift = (sum - 1) / (n + 1); });
    return p.map((x) => Math.max(0, x - shift));
  };

  const [width, height] = [side + 2 * pad, high + 2 * pad + 34];
  const svg = picture(left, width, height, "The triangle of all rows over three tokens, coloured by how steep softmax is there", "group");
  const clip = `fl-clip-${Math.random().toString(36).slice(2)}`;
  svg.append("clipPath").attr("id", clip).append("path").attr("d", `M${corners.join("L")}Z`);
  const shades = svg.append("g").attr("clip-path", `url(#${clip})`);
  svg.append("path").attr("d", `M${corners.join("L")}Z`).attr("class", "fl-touch-edge");
  const names = ["token 1", "token 2", "token 3"];
  corners.forEach(([x, y], n) => svg.append("text").attr("class", "fl-touch-text").attr("x", x).attr("y", n === 2 ? y - 9 : y + 20)
    .attr("text-anchor", ["start", "end", "middle"][n]).attr("dx", [-pad + 4, pad - 4, 0][n]).text(`all on ${names[n]}`));

  const kinds = {
    norm: { words: "‖J(p)‖", of: (v) => v.norm, top: 0.5 },
    g1: { words: "g₁(p)", of: (v) => v.g1, top: 0.5 },
    slack: { words: "g₁ / ‖J‖", of: (v) => (v.norm > 1e-12 ? v.g1 / v.norm : 1), low: 1, top: 1.172 },
  };
  const cells = 90;
  const paint = (kind) => {
    const { of, words, top, low = 0 } = kinds[kind];
    ends[0].text(`${words}   ${low}`);
    ends[1].text(top);
    const [columns, lines] = [cells, Math.round((cells * height) / width)];
    const field = [];
    for (let j = 0; j < lines; j += 1) for (let i = 0; i < columns; i += 1)
      field.push(of(values(inside(row([((i + 0.5) * width) / columns, ((j + 0.5) * height) / lines])))));
    const steps = d3.range(13).map((n) => low + ((top - low) * n) / 13);
    const path = d3.geoPath(d3.geoTransform({ point(x, y) { this.stream.point((x * width) / columns, (y * height) / lines); } }));
    shades.selectAll("path").data(d3.contours().size([columns, lines]).thresholds([-1, ...steps.slice(1)])(field)).join("path")
      .attr("d", path).attr("fill", (d, n) => d3.interpolateCividis(n / 12));
  };

  // what the colours mean
  const legend = svg.append("g").attr("transform", `translate(${width / 2 - 66}, ${pad + high + 38})`);
  legend.selectAll("rect").data(d3.range(13)).join("rect").attr("x", (n) => n * 14).attr("width", 14.2).attr("height", 10)
    .attr("fill", (n) => d3.interpolateCividis(n / 12));
  const ends = ["end", "start"].map((anchor, n) => legend.append("text").attr("class", "fl-touch-small").attr("text-anchor", anchor)
    .attr("x", n ? 188 : -6).attr("y", 9));

  // the ring
  const ring = svg.append("g").attr("class", "fl-touch-handle").attr("tabindex", 0).attr("role", "slider")
    .attr("aria-label", "The row, moved by the arrow keys").attr("aria-valuemin", 0).attr("aria-valuemax", 0.5);
  ring.append("circle").attr("r", 22).attr("fill", "transparent");
  ring.append("circle").attr("r", 9.5).attr("class", "fl-touch-halo");
  ring.append("circle").attr("r", 9.5).attr("class", "fl-touch-ring");

  // the controls
  const said = status(left);
  const controls = make("div", { class: "fl-touch-controls" });
  right.append(controls);
  let p = [0.6, 0.3, 0.1];
  const sliders = names.map((name, n) => slider(controls, {
    name: `p${n + 1}`, label: `p${"₁₂₃"[n]}, ${name}`, min: 0, max: 1, step: 0.01, value: p[n], show: (v) => v.toFixed(2),
    change: (to) => {
      const others = [0, 1, 2].filter((k) => k !== n);
      const rest = others.reduce((sum, k) => sum + p[k], 0);
      const next = [0, 0, 0];
      next[n] = to;
      for (const k of others) next[k] = rest > 1e-9 ? ((1 - to) * p[k]) / rest : (1 - to) / 2;
      move(next, n);
    },
  }));

  // the bounds, on one axis
  const bars = [
    ["lower", "lower bound, two largest", "lower"], ["norm", "‖J(p)‖, exact", "exact"], ["g1", "g₁(p), the paper's", "upper"],
    ["gershgorin", "Gershgorin's discs", "upper"], ["frobenius", "Frobenius norm", "upper"], ["trace", "trace", "upper"],
  ];
  const [wide, line, top] = [300, 37, 24];
  const chart = picture(right, wide, top + line * bars.length + 22, "The norm and its bounds on one axis from 0 to 0.7");
  const x = d3.scaleLinear([0, 0.7], [4, wide - 46]);
  const foot = top + line * bars.length;
  for (const tick of [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) {
    chart.append("path").attr("class", "fl-touch-grid").attr("d", `M${x(tick)} ${top}V${foot}`);
    chart.append("text").attr("class", "fl-touch-small").attr("x", x(tick)).attr("y", foot + 17).attr("text-anchor", "middle").text(tick);
  }
  chart.append("path").attr("class", "fl-touch-limit").attr("d", `M${x(0.5)} ${top - 6}V${foot}`);
  chart.append("text").attr("class", "fl-touch-small").attr("x", x(0.5)).attr("y", 14).attr("text-anchor", "middle").text("never above 1/2");
  const drawn = bars.map(([key, words, kind], n) => {
    const y = top + n * line;
    chart.append("text").attr("class", "fl-touch-text").attr("x", x(0)).attr("y", y + 15).text(words);
    const bar = chart.append("rect").attr("class", `fl-touch-bar fl-touch-${kind}`).attr("x", x(0)).attr("y", y + 20).attr("height", 11).attr("rx", 2);
    const said = chart.append("text").attr("class", "fl-touch-text fl-touch-number").attr("data-name", key)
      .attr("x", wide).attr("y", y + 30).attr("text-anchor", "end");
    return (v) => {
      bar.attr("width", Math.max(0.5, x(v[key]) - x(0)));
      said.attr("data-value", v[key]).text(v[key].toFixed(3));
    };
  });

  const more = make("div", { class: "fl-touch-controls" });
  left.append(more);
  radios(more, { name: "colour", legend: "Colour of the triangle", value: "norm", change: paint, choices: Object.entries(kinds).map(([k, v]) => [k, v.words]) });
  const places = make("div", { class: "fl-touch-buttons", role: "group", "aria-label": "Rows to start from" });
  more.append(places);

  const move = (next, kept) => {
    p = inside(next);
    const v = values(p);
    ring.attr("transform", `translate(${spot(p)})`).attr("aria-valuenow", v.norm.toFixed(3))
      .attr("aria-valuetext", `p = ${p.map((s) => s.toFixed(2)).join(", ")}; norm ${v.norm.toFixed(3)}`);
    place.dataset.row = p.join(" ");
    sliders.forEach((s, n) => { if (n !== kept) s.set(p[n]); });
    for (const draw of drawn) draw(v);
    const ratio = v.norm > 1e-9 ? v.g1 / v.norm : 1;
    const kind = v.norm < 0.1 ? "It hardly answers: nearly all is on one token. "
      : v.norm > 0.45 ? "It is torn between two tokens, and answers most. " : "";
    said.textContent = `‖J(p)‖ = ${v.norm.toFixed(3)}. ${kind}g₁ is ${ratio < 1.0005 ? "exact" : `${((ratio - 1) * 100).toFixed(1)} % too large`} here; it is never more than 17.2 %.`;
  };
  button(places, "one token", () => move([0.96, 0.03, 0.01]), "one");
  button(places, "two tokens", () => move([0.5, 0.5, 0]), "two");
  button(places, "uniform", () => move([1 / 3, 1 / 3, 1 / 3]), "uniform");

  svg.call(d3.drag().on("start drag", (event) => move(row([event.x, event.y]))).touchable(true));
  ring.on("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [px, py] = spot(p);
    const far = event.shiftKey ? 15 : 3;
    move(row([px + step[0] * far, py + step[1] * far]));
  });
  paint("norm");
  move(p);
};
