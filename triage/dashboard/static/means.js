// Many images on few pixels: their means, with the range they cover, in place of a comb of lines.

const PER_PIXEL = 3; // more images than this on a pixel, and a line through all of them shows nothing
const PIXELS = 0.75; // means a pixel, at most

// How many image numbers one mean covers; 1 draws every image. Powers of two, so that means stay put as the charts move on.
export function meanOf(images, [first, last], width) {
  if (images <= PER_PIXEL * width) return 1;
  return 2 ** Math.ceil(Math.log2((last - first) / (PIXELS * width)));
}

// Where each group of `size` image numbers begins in `frames`, and at the end its length.
export function groupStarts(frames, size) {
  const starts = [];
  let group = null;
  frames.forEach((frame, k) => {
    const mine = Math.floor(frame / size);
    if (mine !== group) starts.push(k);
    group = mine;
  });
  starts.push(frames.length);
  return starts;
}

export function groupCentres(frames, starts, size) {
  return starts.slice(0, -1).map((from) => (Math.floor(frames[from] / size) + 0.5) * size);
}

// Mean, least and most of the known values of each group; null where none is known.
export function groupMeans(values, starts) {
  const mean = [];
  const low = [];
  const high = [];
  for (let k = 0; k + 1 < starts.length; k++) {
    let [sum, n, least, most] = [0, 0, Infinity, -Infinity];
    for (let at = starts[k]; at < starts[k + 1]; at++) {
      const value = values[at];
      if (value === null || value === undefined) continue;
      sum += value;
      n += 1;
      if (value < least) least = value;
      if (value > most) most = value;
    }
    mean.push(n ? sum / n : null);
    low.push(n ? least : null);
    high.push(n ? most : null);
  }
  return { mean, low, high };
}
