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

export class Api {
  key = "";

  async #send(path, init) {
    for (let attempt = 1; ; attempt += 1) {
      const headers = new Headers(init.headers);
      try {
        if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
      } catch { // beyond Latin-1
        throw new ApiError(401, { code: "invalid_api_key", message: "The API key has characters that no key has." });
      }
      let response;
      try {
        response = await fetch(path, { ...init, headers, credentials: "same-origin" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError(0, { code: "offline", message: "The server cannot be reached." });
      }
      if (response.ok) return response;
      const wait = Number(response.headers.get("Retry-After"));
      if ([429, 503].includes(response.status) && attempt < TRIES && wait <= LONGEST_WAIT) {
        await new Promise((resolve) => { setTimeout(resolve, 1000 * Math.max(wait, 0.5)); });
        continue;
      }
      const body = await response.json().catch(() => null);
      throw new ApiError(response.status, body?.error ?? { code: "internal_error", message: response.statusText });
    }
  }

  // A form of these fields; a list is a field that comes once an entry, and what is null stays away.
  async #post(path, fields, signal, session) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) {
      for (const part of value === null ? [] : [value].flat()) body.append(name, part);
    }
    return this.#send(path, { method: "POST", body, signal, headers: { "X-Session-ID": session } });
  }

  async model() {
    return (await (await this.#send("v1/models", {})).json()).data[0];
  }

  // Leave an image with the server, which encodes it ahead of the first question.
  async upload(file, session) {
    return (await (await this.#post("v1/images", { image: file }, undefined, session)).json()).image;
  }

  async answer(fields, signal, session) {
    return (await this.#post("v1/answer", fields, signal, session)).json();
  }
}
