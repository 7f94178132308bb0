// How a search orders its results: chapters, their pages on real data, the other pages, the library reference.
// Within each of these, by Sphinx's own points.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    if (docname.startsWith("chapters/")) return score + 3000;
    if (docname.startsWith("results/")) return score + 2000;
    if (docname.startsWith("library/") || docname === "py-modindex" || docname === "genindex") return score;
    return score + 1000;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
