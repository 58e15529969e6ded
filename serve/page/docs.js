// Shows openapi.json with Swagger UI, in the light or dark colors that the browser prefers.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", applyTheme);
applyTheme();

// Relative to this file, because the page is served at both /docs and /docs/.
const url = new URL("../openapi.json", document.currentScript.src).href;
SwaggerUIBundle({ url, dom_id: "#docs", deepLinking: true, validatorUrl: null });
