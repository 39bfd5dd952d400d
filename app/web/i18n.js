// The interface in English and Chinese. Text in the page carries its key in data-i18n*.

const ENGLISH = {
  skip: "Skip to the question",
  tagline: "Ask about an image. See where every word looked.",
  settings: "Settings", image: "Image", questions: "Questions and answers",
  docs: "API", theme_auto: "Theme: as the device", theme_light: "Theme: light", theme_dark: "Theme: dark",
  drop: "Drop an image here, or paste one", choose: "Choose an image", camera: "Take a photo",
  examples: "Or start with one of these", cat: "A cat", coffee: "A cup of coffee", rocket: "A rocket",
  opacity: "Opacity", colours: "Colours", layer: "Layer", kind: "Kind", smooth: "Smooth", allLayers: "all",
  kind_raw: "raw", kind_gradient: "gradient", kind_rollout: "rollout", kind_similarity: "similarity",
  save: "Save as PNG", change: "Another image",
  question: "Your question", placeholder: "What do you want to know?", ask: "Ask", asking: "Asking …",
  narrow: "Choose between given answers", candidates: "Possible answers, separated by commas",
  candidatesExample: "cat, dog, horse",
  key: "API key", useKey: "Use it",
  pointer: "Point at a word, or tap it, to see where it looked.",
  earlier: "Asked about this image", code: "The same from your own code", copy: "Copy", copied: "Copied",
  trust: "A map shows where the model looked, never why it answered. Images stay on this server, in memory, and are dropped after a while.",
  others: "any other answer", unknown: "None of its own answers, scored by their wording alone: {answers}",
  over_vocabulary: "{share} among all the answers it knows", over_candidates: "{share} among the given answers",
  over_sequence: "{share} for these exact words", over_text: "{share} that this is the text asked for",
  meta: "{model} · {time} ms",
  where: "{text} looked most at the {place}", read: "{text} was read most from the {place}",
  elsewhere: "{share} off the image",
  noMap: "This model gives no maps.", imageAlt: "The image you ask about: {name}", cell: "{strength} a cell", preparing: "Looking at the image …", ready: "Image ready.",
  answered: "Answer: {answer}, {share}.",
  needQuestion: "Type a question first.", needImage: "Choose an image first.",
  cannotShow: "This browser cannot show that file as an image.",
  requestId: "request {id}",
};

const CHINESE = {
  skip: "跳到问题",
  tagline: "对图片提问，看清每个词看向了哪里。",
  settings: "设置", image: "图片", questions: "问题与回答",
  docs: "接口", theme_auto: "主题：跟随设备", theme_light: "主题：浅色", theme_dark: "主题：深色",
  drop: "把图片拖到这里，或直接粘贴", choose: "选择图片", camera: "拍照",
  examples: "或者先试试这些", cat: "一只猫", coffee: "一杯咖啡", rocket: "一枚火箭",
  opacity: "不透明度", colours: "配色", layer: "层", kind: "类型", smooth: "平滑", allLayers: "全部",
  kind_raw: "原始", kind_gradient: "梯度", kind_rollout: "逐层传播", kind_similarity: "相似度",
  save: "存为 PNG", change: "换一张图片",
  question: "你的问题", placeholder: "想知道什么？", ask: "提问", asking: "正在回答…",
  narrow: "只在给定答案中选择", candidates: "可能的答案，用逗号分隔", candidatesExample: "cat, dog, horse",
  key: "API 密钥", useKey: "使用",
  pointer: "指向或点按一个词，看它看向了哪里。",
  earlier: "关于这张图片的提问", code: "在你自己的代码中做同样的事", copy: "复制", copied: "已复制",
  trust: "注意力图显示模型看了哪里，并不说明它为什么这样回答。图片只留在本服务器的内存中，过一段时间就会丢弃。",
  others: "其他答案", unknown: "不在它自己的答案之列，仅按措辞评分：{answers}",
  over_vocabulary: "在它知道的所有答案中占 {share}", over_candidates: "在给定答案中占 {share}",
  over_sequence: "恰好是这些词的概率为 {share}", over_text: "正是所问文字的概率为 {share}",
  meta: "{model} · {time} 毫秒",
  where: "{text}主要看向{place}", read: "{text}主要来自{place}", elsewhere: "{share} 未落在图片上",
  noMap: "这个模型不提供注意力图。", imageAlt: "所问的图片：{name}", cell: "每格 {strength}", preparing: "正在看图…", ready: "图片已就绪。",
  answered: "回答：{answer}，{share}。",
  needQuestion: "请先输入问题。", needImage: "请先选择图片。",
  cannotShow: "浏览器无法显示这个文件。",
  requestId: "请求 {id}",
};

// [row][column] of a 3 x 3 split of the image
const PLACES = {
  en: [["upper left", "top", "upper right"], ["left", "centre", "right"], ["lower left", "bottom", "lower right"]],
  zh: [["左上方", "上方", "右上方"], ["左侧", "中央", "右侧"], ["左下方", "下方", "右下方"]],
};

// Error codes of the API in Chinese; in English the server's own message stands, which has the figures.
const ERRORS = {
  offline: "连接不到服务器。", invalid_api_key: "API 密钥缺失或无效。", image_not_found: "服务器已不再保存这张图片，请重新选择。",
  request_incomplete: "请求没能在时限内传完，请再试一次。",
  body_too_large: "请求太大，超出了服务器的上限。", image_too_large: "图片太大，超出了服务器的上限。",
  unsupported_image: "不支持这种图片格式。", image_broken: "图片已损坏或不完整。", image_too_small: "图片太小，看不清。",
  invalid_request: "请求中有无效的内容。", question_empty: "问题是空的。", question_too_long: "问题太长了。",
  question_not_understood: "模型看不懂这个问题。它可能只懂英文。", map_not_supported: "这个模型不支持这种图或这一层。",
  task_not_supported: "这个模型不支持这项任务。",
  rate_limited: "提问太频繁了，请稍后再试。", internal_error: "服务器出错了。", overloaded: "服务器正忙，请稍后再试。",
  not_ready: "模型正在启动，请稍后再试。", shutting_down: "服务器正在关闭。", worker_failed: "模型进程刚刚重启，请再试一次。",
  deadline_exceeded: "没能在时限内完成，请再试一次。",
};

const TEXTS = { en: ENGLISH, zh: CHINESE };
export let language = "en";

export function setLanguage(next) {
  language = next;
  document.documentElement.lang = next === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of document.querySelectorAll("[data-i18n-label]")) node.setAttribute("aria-label", t(node.dataset.i18nLabel));
  for (const node of document.querySelectorAll("[data-i18n-placeholder]")) node.placeholder = t(node.dataset.i18nPlaceholder);
}

export function t(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export const place = ([row, column]) => PLACES[language][row][column];
export const quoted = (text) => `“${text}”`;
export const wordsFor = (error) => (language === "zh" && ERRORS[error.code]) || error.message;

// A share as a percentage with two significant digits below 10%.
export function percent(share) {
  if (share > 0 && share < 0.0005) return `<${percent(0.001)}`;
  const digits = share >= 0.1 || share === 0 ? 0 : 1;
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(share);
}

// A number that is no share, to three significant digits.
export const figure = (value) => new Intl.NumberFormat(language, { maximumSignificantDigits: 3 }).format(value);
