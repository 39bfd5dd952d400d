// What becomes of a photograph before it is sent: large ones are made smaller here, which saves most of their bytes.

const ENOUGH = 1280; // pixels of the longer side: more than any model looks at, text included
const LIGHT = 400_000; // bytes: so few are sent as they are
const QUALITY = 0.92;

// The file to send: upright, in sRGB, on white, as the server would make it. The file itself where it is small enough, or
// where the browser cannot read it.
export async function lighter(file) {
  if (file.size <= LIGHT || /gif|svg/.test(file.type)) return file;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return file;
  }
  const factor = ENOUGH / Math.max(bitmap.width, bitmap.height);
  if (factor >= 1) return file;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * factor)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", QUALITY); });
  return blob && blob.size < file.size ? new File([blob], file.name, { type: "image/jpeg" }) : file;
}

export const isHeic = (file) => /\.hei[cf]$/i.test(file.name) || /hei[cf]/.test(file.type);
