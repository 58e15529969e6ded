// Shows openapi.json with Swagger UI, in the colours that the browser is set to.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// Relative to this file: the page itself is served at /docs and at /docs/.
const url = new URL("../openapi.json", document.currentScript.src).href;
SwaggerUIBundle({ url, dom_id: "#docs", deepLinking: true, validatorUrl: null });
