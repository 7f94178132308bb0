// What scrolls sideways is reached by keyboard: a wide formula, a wide table.
(() => {
  const mark = () => document.querySelectorAll("mjx-container, .fl-scroll, pre").forEach(region => {
    if (region.scrollWidth > region.clientWidth && !region.closest("[aria-hidden=true]")) region.tabIndex = 0;
  });
  const start = () => {
    mark();
    const typeset = window.MathJax && MathJax.startup && MathJax.startup.promise;
    if (typeset) typeset.then(mark);
  };
  window.addEventListener("load", start);
  window.addEventListener("resize", mark);
})();
