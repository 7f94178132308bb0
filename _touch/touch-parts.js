// What the figures share: labelled controls, an SVG that fits its place, numbers as one writes them.
(() => {
  let count = 0;
  const make = (name, attributes = {}, ...inside) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value === true) element.setAttribute(key, "");
      else if (value !== false && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...inside);
    return element;
  };

  // the frame: a title, one line of what to do, then what the figure adds
  const frame = (place, title, how) => {
    const id = `fl-touch-${(count += 1)}`;
    place.setAttribute("role", "region");
    place.setAttribute("aria-labelledby", id);
    const head = make("p", { class: "fl-touch-title", id }, make("span", { class: "fl-touch-mark", "aria-hidden": "true" }, "☞"), ` ${title}`);
    place.append(head, make("p", { class: "fl-touch-how" }, how));
    const body = make("div", { class: "fl-touch-body" });
    place.append(body);
    return body;
  };

  // a labelled slider; `show` writes its value beside it, and is what a screen reader says
  const slider = (into, { name, label, min, max, step, value, show = String, change }) => {
    const id = `fl-touch-${(count += 1)}`;
    const input = make("input", { type: "range", id, name, min, max, step, value });
    const said = make("output", { for: id, class: "fl-touch-value" });
    const write = () => {
      said.textContent = show(Number(input.value));
      input.setAttribute("aria-valuetext", said.textContent);
    };
    input.addEventListener("input", () => { write(); change(Number(input.value)); });
    into.append(make("div", { class: "fl-touch-slider" }, make("label", { for: id }, label), said, input));
    write();
    return { input, set: (to) => { input.value = to; write(); }, get: () => Number(input.value), write };
  };

  // a group of radio buttons; `choices` are pairs of value and words
  const radios = (into, { name, legend, choices, value, change }) => {
    const group = `fl-touch-${(count += 1)}`;
    const set = make("fieldset", { class: "fl-touch-radios" }, make("legend", {}, legend));
    for (const [key, words] of choices) {
      const input = make("input", { type: "radio", name: group, "data-name": name, value: key });
      input.checked = key === value;
      input.addEventListener("change", () => change(key));
      set.append(make("label", {}, input, make("span", {}, words)));
    }
    into.append(set);
    return { set: (to) => { for (const i of set.querySelectorAll("input")) i.checked = i.value === to; }, element: set };
  };

  const button = (into, words, act, name) => {
    const element = make("button", { type: "button", class: "fl-touch-button", "data-name": name, onclick: act }, words);
    into.append(element);
    return element;
  };

  // what has changed, in words: said to who cannot see it
  const status = (into) => {
    const line = make("p", { class: "fl-touch-said", role: "status" });
    into.append(line);
    return line;
  };

  // an SVG of fixed coordinates that takes the width it gets
  const picture = (into, width, height, label, role = "img") => {
    const svg = d3.create("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("role", role).attr("aria-label", label);
    into.append(svg.node());
    return svg;
  };

  // bars from 0 to 1, a cell of a table each: `parts` are the column, what it is called and the kind of bar; returns what shows a row
  const shares = (into, label, parts) => {
    const svg = picture(into, 310, 124, label, "img");
    const across = d3.scaleLinear([0, 1], [0, 252]);
    const shown = parts.map(([name, words, kind], n) => {
      svg.append("text").attr("class", "fl-touch-text").attr("y", 13 + 40 * n).text(words);
      svg.append("rect").attr("class", "fl-touch-track").attr("y", 18 + 40 * n).attr("width", 252).attr("height", 13).attr("rx", 2);
      const bar = svg.append("rect").attr("class", `fl-touch-fill-${kind}`).attr("y", 18 + 40 * n).attr("height", 13).attr("rx", 2);
      const text = svg.append("text").attr("class", "fl-touch-text fl-touch-number").attr("data-name", name).attr("x", 310).attr("y", 29 + 40 * n).attr("text-anchor", "end");
      return (row) => {
        const value = parseFloat(row[name]);
        bar.attr("width", Number.isNaN(value) ? 0 : Math.max(1, across(value)));
        text.text(Number.isNaN(value) ? "none" : value.toFixed(2));
      };
    });
    return (row) => { for (const show of shown) show(row); };
  };

  // draw once, and again whenever the width makes another layout right
  const fitted = (place, draw) => {
    let before = 0;
    new ResizeObserver(() => {
      const width = Math.round(place.clientWidth);
      if (width && width !== before) draw((before = width));
    }).observe(place);
  };

  const minus = (text) => text.replace("-", "\u2212");
  Object.assign(faultlinesTouch, { make, frame, slider, radios, button, status, picture, shares, fitted, minus });
})();
