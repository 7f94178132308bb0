// Which background an animal stands on, and where the classifier of the animal and that of the background look.
faultlinesTouch.figures.gaze = (place, { classes, places, moments, images, trained, looks, tables, sheets }) => {
  const { make, frame, slider, radios, status, picture, shares } = faultlinesTouch;
  const body = frame(place, "Touch it: which background, and where do the two classifiers look?",
    "Choose an animal and its background; then go through the training, with the penalty and without it.");
  const left = make("div", { class: "fl-touch-half" });
  const right = make("div", { class: "fl-touch-half" });
  body.append(left, right);
  const now = { label: classes[0], where: places[0], kind: "full", image: 0, penalty: 0, at: moments.length - 1, layer: "both" };
  const seen = (label, where) => trained.some(([a, b]) => a === label && b === where);

  // the animals: one radio button a combination
  const grid = make("fieldset", { class: "fl-touch-animals" }, make("legend", {}, "Animal and background: a solid frame is in training, a dashed one in the test only"));
  grid.style.setProperty("--fl-touch-columns", places.length);
  grid.append(make("span", {}), ...places.map((where) => make("span", { class: "fl-touch-head", "aria-hidden": "true" }, where)));
  const tiles = [];
  classes.forEach((label, row) => {
    grid.append(make("span", { class: "fl-touch-head", "aria-hidden": "true" }, label));
    places.forEach((where, column) => {
      const input = make("input", { type: "radio", name: "fl-touch-animal", value: `${label} ${where}`,
        "aria-label": `${label}, ${where}, ${seen(label, where) ? "in training" : "in the test only"}` });
      input.checked = label === now.label && where === now.where;
      input.addEventListener("change", () => { Object.assign(now, { label, where }); tell(); });
      const tile = make("span", { class: `fl-touch-tile ${seen(label, where) ? "fl-touch-seen" : "fl-touch-unseen"}` });
      tile.style.backgroundSize = `${places.length * 100}% ${classes.length * 100}%`;
      tile.style.backgroundPosition = `${(100 * column) / (places.length - 1)}% ${(100 * row) / (classes.length - 1)}%`;
      tiles.push(tile);
      grid.append(make("label", {}, input, tile));
    });
  });
  left.append(grid);
  const said = status(left);
  const which = make("div", { class: "fl-touch-controls" });
  left.append(which);
  radios(which, { name: "kind", legend: "The background", value: now.kind, change: (kind) => { now.kind = kind; methods(); tell(); },
    choices: [["full", "fills the image"], ["patch", "sits in a patch"]] });
  const choose = make("select", { name: "method", id: "fl-touch-method", onchange: () => measure() });
  which.classList.add("fl-touch-above");
  which.append(make("label", { class: "fl-touch-select", for: "fl-touch-method" }, "Trained with"), choose);
  const show = shares(left, "What the table says of this method", [["WGA", "right in the worst group of the test", "plain"],
    ["on foreground", "share of the label’s map on the animal", "plain"], ["overlap", "overlap of the two maps", "plain"]]);
  const rows = () => tables[now.kind] || [];
  const measure = () => {
    const row = rows().find((r) => r.method === choose.value) || rows()[0];
    if (row) show(row);
    place.dataset.method = row ? row.method : "";
  };
  const methods = () => {
    const before = choose.value;
    choose.replaceChildren(...rows().map((r) => new Option(r.method, r.method)));
    if (rows().some((r) => r.method === before)) choose.value = before;
    measure();
  };
  const tell = () => {
    for (const tile of tiles) tile.style.backgroundImage = `url(${sheets[now.kind]})`;
    const known = seen(now.label, now.where);
    const others = places.filter((where) => seen(now.label, where)).join(" and ");
    place.dataset.animal = `${now.label} ${now.where}`;
    said.textContent = known ? `A ${now.label} before ${now.where}: so it is in training, and the background gives half of the answer away.`
      : `A ${now.label} before ${now.where}: never in training, where it stands before ${others}. The test asks for this, and the background misleads.`;
  };

  // where the two look
  const side = 240;
  const svg = picture(right, side, side, "An image of training groups, with where the two classifiers look", "img");
  svg.attr("class", "fl-touch-photo");
  const id = `fl-grey-${Math.random().toString(36).slice(2)}`;
  svg.append("filter").attr("id", id).append("feColorMatrix").attr("type", "saturate").attr("values", 0);
  const photo = svg.append("image").attr("width", side).attr("height", side).attr("filter", `url(#${id})`);
  const cells = Math.sqrt(looks[0][0][0].length);
  const layers = ["label", "background"].map((name) => svg.append("g").attr("class", `fl-touch-look-${name}`));
  const dot = (a, b) => a.reduce((sum, v, n) => sum + v * b[n], 0);
  const cosine = (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1);
  const heard = status(right);
  const look = () => {
    const maps = looks[2 * now.penalty + now.image][now.at];
    photo.attr("href", images[now.image]);
    layers.forEach((layer, n) => {
      layer.attr("display", now.layer === "both" || now.layer === ["label", "background"][n] ? null : "none");
      layer.selectAll("rect").data(maps[n]).join("rect").attr("x", (d, k) => (k % cells) * (side / cells)).attr("y", (d, k) => Math.floor(k / cells) * (side / cells))
        .attr("width", side / cells).attr("height", side / cells).attr("opacity", (d) => 0.75 * d);
    });
    const same = cosine(...maps);
    Object.assign(place.dataset, { epoch: moments[now.at], penalty: now.penalty, similarity: same });
    heard.textContent = `Epoch ${moments[now.at]}, ${now.penalty ? "with" : "without"} the penalty: the two maps have a cosine of ${same.toFixed(2)}, which is what the penalty lowers.`;
  };
  const controls = make("div", { class: "fl-touch-controls" });
  right.append(controls);
  slider(controls, { name: "epoch", label: "After epoch", min: 0, max: moments.length - 1, step: 1, value: now.at, show: (n) => String(moments[n]), change: (n) => { now.at = n; look(); } });
  radios(controls, { name: "penalty", legend: "The penalty on looking at the same places", value: "0", choices: [["0", "without"], ["1", "with (eX2L)"]], change: (v) => { now.penalty = Number(v); look(); } });
  radios(controls, { name: "image", legend: "Image", value: "0", choices: [["0", "first"], ["1", "second"]], change: (v) => { now.image = Number(v); look(); } });
  radios(controls, { name: "layer", legend: "Show the map of", value: "both", choices: [["both", "both"], ["label", "the animal’s classifier (blue)"], ["background", "the background’s (red)"]], change: (v) => { now.layer = v; look(); } });
  right.append(make("p", { class: "fl-touch-source" }, "Images and maps are those of the figures of this page, taken from their pixels; each map is scaled to its own largest cell. Bars: the table below, means over seeds."));
  methods();
  tell();
  look();
};
