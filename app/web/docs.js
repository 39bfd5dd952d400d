// Swagger UI with this server's document. Addresses are relative, so that the page works behind a path prefix.
window.SwaggerUIBundle({ url: "openapi.json", dom_id: "#routes", deepLinking: true, validatorUrl: null });
