// The server's routes, as the page uses them. Addresses are relative, so that the page works behind a path prefix.

const TRIES = 4; // of a request that the server was too busy for
const LONGEST_WAIT = 5; // seconds

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    Object.assign(this, { status, code: error.code, param: error.param, requestId: error.request_id, detail: error.detail });
  }
}

// A name for all that is asked about one image: a load balancer may send it to the replica that has encoded the image.
export function newSession() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// As fetch, which does not tell how much has been sent: calls progress(share), 0 to 1.
function sendTelling(path, { method, headers, body, signal }, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = "blob";
    for (const [name, value] of headers) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => { if (event.lengthComputable) progress(event.loaded / event.total); });
    request.addEventListener("load", () => {
      const lines = request.getAllResponseHeaders().trim().split("\r\n").map((line) => line.split(/: (.*)/s).slice(0, 2));
      resolve(new Response(request.response, { status: request.status, statusText: request.statusText, headers: lines }));
    });
    request.addEventListener("error", () => reject(new TypeError("network")));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

export class Api {
  key = "";

  async #send(path, init, progress) {
    for (let attempt = 1; ; attempt += 1) {
      init.signal?.throwIfAborted(); // also in the pause before this try; XMLHttpRequest does not look
      const headers = new Headers(init.headers);
      try {
        if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
      } catch { // beyond Latin-1
        throw new ApiError(401, { code: "invalid_api_key", message: "The API key has characters that no key has." });
      }
      let response;
      try {
        const whole = { ...init, headers, credentials: "same-origin" };
        response = await (progress ? sendTelling(path, whole, progress) : fetch(path, whole));
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError(0, { code: "offline", message: "The server cannot be reached. See whether it still runs, then try again." });
      }
      if (response.ok) return response;
      const wait = Number(response.headers.get("Retry-After"));
      if ([429, 503].includes(response.status) && attempt < TRIES && wait <= LONGEST_WAIT) {
        await new Promise((resolve) => {
          setTimeout(resolve, 1000 * Math.max(wait, 0.5));
          init.signal?.addEventListener("abort", resolve);
        });
        continue;
      }
      const body = await response.json().catch(() => null);
      throw new ApiError(response.status, body?.error ?? { code: "internal_error", message: response.statusText });
    }
  }

  // A form of these fields; a list is a field that comes once an entry, and what is null stays away.
  async #post(path, fields, { signal, session, progress }) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      for (const part of value === null ? [] : [value].flat()) body.append(name, part);
    }
    return this.#send(path, { method: "POST", body, signal, headers: { "X-Session-ID": session } }, progress);
  }

  async model() {
    return (await (await this.#send("v1/models", {})).json()).data[0];
  }

  // Leave an image with the server, which encodes it ahead of the first question. `options`: {session, signal, progress}.
  async upload(file, options) {
    return (await (await this.#post("v1/images", { image: file }, options)).json()).image;
  }

  async answer(fields, options) {
    return (await this.#post("v1/answer", fields, options)).json();
  }

  // An image as the server sees it, as PNG: for formats that this browser does not show.
  async render(file, options) {
    const fields = { image: file, question: "What is this?", opacity: 0, legend: false };
    return (await this.#post("v1/overlay", fields, options)).blob();
  }
}
