// Figures that one can touch. A page that has one loads this file alone; the library, the figure and its numbers come
// when the reader is near, or asks for it. All are scripts, not fetched data, so that a page works from the disk.
(() => {
  const base = document.currentScript.src.replace(/[^/]*$/, "");
  const asked = {};
  const load = (name) => (asked[name] ||= new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = base + name;
    script.onload = done;
    script.onerror = () => fail(new Error(`${name} did not load`));
    document.head.append(script);
  }));
  const touch = (window.faultlinesTouch = { figures: {}, numbers: {} });

  const open = async (place) => {
    if (place.dataset.state !== "waiting") return;
    place.dataset.state = "loading";
    const { figure, source } = place.dataset;
    try {
      await Promise.all([load("d3.min.js"), load("touch-parts.js"), load(`touch-${figure}.js`), load(`touch-data/${source}.js`)]);
      place.replaceChildren();
      touch.figures[figure](place, touch.numbers[source]);
      place.dataset.state = "ready";
    } catch (error) {
      place.dataset.state = "failed";
      place.hidden = true; // the still picture above says the same
      throw error;
    }
  };
  const start = () => {
    const places = [...document.querySelectorAll(".fl-touch[data-figure]")];
    const near = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting) { near.unobserve(target); open(target); }
    }, { rootMargin: "300px" });
    for (const place of places) {
      place.dataset.state = "waiting";
      place.hidden = false;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "fl-touch-button";
      button.textContent = "☞ Touch it: a figure that moves";
      button.addEventListener("click", () => open(place));
      place.append(button);
    }
    // a reader who reads on is on the way to it; who only looks at the first screen loads nothing
    addEventListener("scroll", () => places.forEach((place) => near.observe(place)), { once: true, passive: true });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
