// Formulas are written \(..\) and \[..\] by the Markdown extension arithmatex. MathJax is large, and only loaded where
// there are any.
(() => {
  const base = document.currentScript.src.replace(/[^/]*$/, "");
  window.MathJax = {
    tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true },
    svg: { fontCache: "local" },
    options: { ignoreHtmlClass: ".*", processHtmlClass: "arithmatex", enableMenu: false },
  };
  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector(".arithmatex")) return;
    const script = document.createElement("script");
    script.src = base + "tex-svg.js";
    document.head.append(script);
  });
})();
