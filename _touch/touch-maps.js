// How an explanation moves under attack, after a small and after a large training step: one image, pixel by pixel.
faultlinesTouch.figures.maps = (place, { side, nets, eps, table }) => {
  const { make, frame, slider, radios, status, picture, shares } = faultlinesTouch;
  const ranks = (values) => { // ties share their mean rank
    const order = d3.range(values.length).sort((a, b) => values[a] - values[b]);
    const found = new Array(values.length);
    for (let n = 0; n < order.length;) {
      let m = n;
      while (m + 1 < order.length && values[order[m + 1]] === values[order[n]]) m += 1;
      for (let k = n; k <= m; k += 1) found[order[k]] = (n + m) / 2;
      n = m + 1;
    }
    return found;
  };
  const spearman = (a, b) => {
    const [x, y] = [ranks(a), ranks(b)];
    const middle = (a.length - 1) / 2;
    const dot = (u, v) => u.reduce((sum, w, n) => sum + (w - middle) * (v[n] - middle), 0);
    return dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
  };
  const top = (values, k) => new Set(d3.range(values.length).sort((a, b) => values[b] - values[a] || a - b).slice(0, k));
  faultlinesTouch.maps = { spearman, top };

  const body = frame(place, "Touch it: how far does the attack move an explanation?",
    "Switch the attack on and off, and say how many of the most important pixels you would show. Point at a pixel, or go over a map with the arrow keys.");
  const left = make("div", { class: "fl-touch-whole fl-touch-nets" });
  const right = make("div", { class: "fl-touch-half" });
  const third = make("div", { class: "fl-touch-half" });
  body.append(left, right, third);
  const now = { on: 1, k: Math.max(1, Math.round(side * side * 0.16)), pixel: nets[0].map.indexOf(Math.max(...nets[0].map)), step: table.length - 1 };
  const size = 150;
  const cell = size / side;

  const views = nets.map((net, which) => {
    const box = make("div", { class: "fl-touch-net" });
    left.append(box);
    const svg = picture(box, 2 * size + 14, size + 44, `Image and map of the network trained with step ${net.step}`, "group");
    svg.append("text").attr("class", "fl-touch-text fl-touch-number").attr("y", 14).text(`training step ${net.step}`);
    const words = svg.append("text").attr("class", "fl-touch-small").attr("y", 31);
    const words2 = svg.append("text").attr("class", "fl-touch-small").attr("x", size + 14).attr("y", 31);
    const squares = (x) => svg.append("g").attr("transform", `translate(${x} 38)`).selectAll("rect").data(d3.range(side * side)).join("rect")
      .attr("x", (n) => (n % side) * cell).attr("y", (n) => Math.floor(n / side) * cell).attr("width", cell + 0.4).attr("height", cell + 0.4);
    const image = squares(0);
    const map = squares(size + 14);
    const kept = svg.append("g").attr("transform", `translate(${size + 14} 38)`);
    const here = [0, size + 14].map((x) => svg.append("rect").attr("class", "fl-touch-pixel").attr("width", cell).attr("height", cell).attr("transform", `translate(${x} 38)`));
    const pad = svg.append("rect").attr("x", size + 14).attr("y", 38).attr("width", size).attr("height", size).attr("fill", "transparent")
      .attr("class", "fl-touch-pad").attr("tabindex", 0).attr("role", "slider").attr("aria-label", `Pixel of the map, training step ${net.step}`)
      .attr("aria-valuemin", 1).attr("aria-valuemax", side * side);
    const pick = (event) => {
      const [x, y] = d3.pointer(event, svg.node());
      const [i, j] = [Math.floor((((x % (size + 14)) + size + 14) % (size + 14)) / cell), Math.floor((y - 38) / cell)];
      if (i >= 0 && i < side && j >= 0 && j < side) { now.pixel = j * side + i; draw(); }
    };
    svg.on("pointermove", pick).on("pointerdown", pick);
    pad.on("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      const [i, j] = [(now.pixel % side) + by[0], Math.floor(now.pixel / side) + by[1]];
      if (i >= 0 && i < side && j >= 0 && j < side) { now.pixel = j * side + i; draw(); }
    });
    const ranked = { map: ranks(net.map), after: ranks(net.after) };
    const place_ = (values, n) => values.length - Math.round(values[n]);
    return () => {
      const [shown, seen] = now.on ? [net.attacked, net.after] : [net.image, net.map];
      words.text(now.on ? `image, ε = ${eps}` : "image, ε = 0");
      words2.text(now.on ? `its map, attacked` : "its map");
      image.attr("fill", (n) => d3.interpolateGreys(1 - shown[n]));
      map.attr("fill", (n) => d3.interpolateMagma(seen[n]));
      const [before, after] = [top(net.map, now.k), top(net.after, now.k)];
      const inset = Math.max(1, cell * 0.08);
      kept.selectAll("rect").data([...before]).join("rect").attr("x", (n) => (n % side) * cell + inset).attr("y", (n) => Math.floor(n / side) * cell + inset)
        .attr("width", cell - 2 * inset).attr("height", cell - 2 * inset).attr("class", (n) => (!now.on || after.has(n) ? "fl-touch-kept" : "fl-touch-lost"));
      for (const mark of here) mark.attr("x", (now.pixel % side) * cell).attr("y", Math.floor(now.pixel / side) * cell);
      const both = [...before].filter((n) => after.has(n)).length;
      const [p, q] = [place_(ranked.map, now.pixel), place_(ranked.after, now.pixel)];
      pad.attr("aria-valuenow", now.pixel + 1).attr("aria-valuetext", `row ${Math.floor(now.pixel / side) + 1}, column ${(now.pixel % side) + 1}: place ${p}, after the attack ${q}`);
      place.dataset[`kept${which}`] = both;
      place.dataset[`rho${which}`] = spearman(net.map, net.after);
      return `step ${net.step}: ${both} of ${now.k} stay (rank correlation ρ = ${spearman(net.map, net.after).toFixed(2)}), and the pixel goes from place ${p} to ${q}`;
    };
  });

  const controls = make("div", { class: "fl-touch-controls" });
  right.append(controls);
  slider(controls, { name: "eps", label: "ε, size of the attack in pixel values", min: 0, max: 1, step: 1, value: now.on, show: (n) => String(n ? eps : 0), change: (n) => { now.on = n; draw(); } });
  slider(controls, { name: "k", label: "Pixels shown as the most important", min: 1, max: Math.floor(side * side / 2), step: 1, value: now.k, change: (k) => { now.k = k; draw(); } });
  const said = status(right);
  const draw = () => {
    const parts = views.map((view) => view());
    Object.assign(place.dataset, { on: now.on, k: now.k, pixel: now.pixel });
    said.textContent = now.on ? `With ε = ${eps}: ${parts.join("; ")}.` : `Before the attack: the frames are on the ${now.k} most important pixels of each map.`;
  };

  // all seeds
  const show = shares(third, "Means over seeds at the training step chosen", [["attacked", "ρ under attack", "plain"],
    ["other images", "ρ of maps of other images", "plain"], ["corrected", "corrected for that", "attention"]]);
  const means = make("div", { class: "fl-touch-controls" });
  third.prepend(means);
  const measure = () => { show(table[now.step]); place.dataset.step = table[now.step].step; };
  slider(means, { name: "step", label: "Training step, means over all seeds", min: 0, max: table.length - 1, step: 1, value: now.step, show: (n) => table[n].step, change: (n) => { now.step = n; measure(); } });
  body.append(make("p", { class: "fl-touch-source fl-touch-whole" }, "White frames: the most important pixels before the attack that are so after it; dotted: those that are not. Images and maps are the pixels of the figure above, its first test image; the run holds them at these two sizes of the attack only. Bars: the table of this page."));
  measure();
  draw();
};
