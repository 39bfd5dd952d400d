// The part of an address behind "#": a question that can be asked again. An example comes along by its name; a photograph
// of one's own never leaves for an address, so there the link has the file's name alone.

export function readLink() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const question = fields.get("q");
  if (!question) return null;
  const layers = fields.getAll("layer").map(Number).filter(Number.isInteger);
  return {
    example: fields.get("image"),
    file: fields.get("file"),
    target: fields.get("at") ?? "answer",
    asked: {
      question,
      candidates: fields.has("candidate") ? fields.getAll("candidate") : null,
      kind: fields.get("kind"),
      layers: layers.length ? layers : null,
    },
  };
}

export function writeLink(image, { question, candidates, kind, layers }, target) {
  const fields = new URLSearchParams(image.example ? { image: image.example } : { file: image.name });
  fields.append("q", question);
  for (const candidate of candidates ?? []) fields.append("candidate", candidate);
  if (kind) fields.append("kind", kind);
  for (const layer of layers ?? []) fields.append("layer", layer);
  if (target !== "answer") fields.append("at", target);
  history.replaceState(null, "", `#${fields}`);
}
