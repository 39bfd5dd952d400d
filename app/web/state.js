// What the page knows, as its parts share it.
import { Api } from "./api.js";
import { Heatmap } from "./heatmap.js";

export const $ = (id) => document.getElementById(id);

export const api = new Api();
export const heatmap = new Heatmap($("overlay"));

export const page = {
  model: null, // the server's description of it
  images: [], // of this visit
  image: null, // the one shown: {file, name, url, example, session, ref: promise of what the server calls it,
  // stop: AbortController of its upload, state, sent, entries: what was asked about it, current: the entry shown}
  refused: [], // files that nothing can be asked about: {name, file, error}
  pinned: "answer", // the target whose map stays when nothing is pointed at
  asking: null, // AbortController of the request under way
  waiting: null, // what a link asks, until its image is chosen
};
