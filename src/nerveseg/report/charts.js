// Draws each chart again, by Vega, when it comes into view: it then answers to the pointer. Where a mark of the chart has a `link`,
// a click opens it in the frame browser.
"use strict";
(() => {
  const live = async (figure) => {
    const still = figure.querySelector("svg");
    const place = document.createElement("div");
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const { view } = await vegaEmbed(place, spec, { actions: false, defaultStyle: false, renderer: "svg" });
    const drawn = place.querySelector("svg");
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", still.getAttribute("aria-label"));
    drawn.removeAttribute("width");
    drawn.removeAttribute("height");
    still.replaceWith(place);
    view.addEventListener("click", (event, item) => {
      const link = item?.datum?.link;
      if (link) document.dispatchEvent(new CustomEvent("follow", { detail: link }));
    });
    figure.dataset.live = "";
  };
  const watch = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      live(target);
    }
  }, { rootMargin: "300px" });
  document.querySelectorAll("figure.chart").forEach((figure) => watch.observe(figure));
})();
