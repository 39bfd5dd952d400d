// The interface in English and Chinese. Text in the page carries its key in data-i18n*.

const ENGLISH = {
  skip: "Skip to the main part",
  tagline: "Ask about an image. See where every word looked.",
  settings: "Settings", image: "Image", questions: "Questions and answers",
  docs: "API", theme_auto: "Theme: as the device", theme_light: "Theme: light", theme_dark: "Theme: dark",
  drop: "Drop an image here, or paste one", choose: "Choose an image", camera: "Take a photo",
  examples: "Or start with one of these", failure: " (it gets this wrong)",
  example_cat: "A cat", example_coffee: "A cup of coffee", example_rocket: "A rocket", example_astronaut: "An astronaut",
  example_camera: "A man behind a camera", example_raccoon: "A raccoon",
  opacity: "Strength", colours: "Colours", layer: "Layer", kind: "Map of", smooth: "Smooth", box: "Box", allLayers: "all",
  colours_spotlight: "Spotlight", colours_viridis: "Viridis", colours_magma: "Magma", colours_cividis: "Cividis",
  kind_raw: "attention", kind_gradient: "what counted", kind_rollout: "attention, followed", kind_similarity: "likeness",
  explain: "What these are",
  explain_raw: "Where the model's attention went while it made this answer.",
  explain_gradient: "What the answer hangs on: where a stronger look would have made it more certain.",
  explain_rollout: "Where attention went, followed back through the steps in which words look at each other.",
  explain_similarity: "How alike a word and each place are to the model. No attention takes part.",
  named: "In the API it is called {name}.",
  less: "less", more: "more", outlined: "outlined: the strongest part",
  save: "Save as PNG", link: "Copy link", change: "Another image", gallery: "Your images", goTo: "Go to {name}", goToUnsent: "Go to {name}, which was not sent",
  refused: "Files that cannot be asked about", remove: "Remove {name}", ofFile: "{name}: {error}",
  sending: "Sending the image, {share}", cancel: "Cancel", stopped: "The image was not sent.", retry: "Send it again",
  askedOf: "This link asks {question} about {name}. Choose that image to ask it again.",
  question: "Your question", placeholder: "What do you want to know?", ask: "Ask", asking: "Asking …", readingText: "Reading the text …",
  narrow: "Choose between given answers", candidates: "Possible answers, separated by commas",
  candidatesExample: "cat, dog, horse",
  key: "API key", useKey: "Use it",
  pointer: "Point at a word, or tap it, to see where it looked.",
  earlier: "Asked about this image", code: "The same from your own code", copy: "Copy", copied: "Copied", copiedQuestion: "Copied, without the photograph",
  trust: "A map shows where the model looked, never why it answered. Images stay on this server, in memory, and are dropped after a while.",
  others: "any other answer", unknown: "It was not trained to give these answers, and judges them by their wording alone, which is less certain: {answers}",
  over_vocabulary: "{share} among all the answers it knows", over_candidates: "{share} among the given answers",
  over_sequence: "{share} for these exact words", over_text: "{share} that this is the text asked for",
  meta: "{model} · {time} ms",
  notSure: "Not sure", notSureLine: "Not sure: {answers}", or: "perhaps {answers}",
  measured: "When it was tested, {share} of its answers to such questions with such a score were right ({count} questions).",
  weak: "Better not trust it here: when it was tested, {share} of all its answers to {what} were right.",
  weak_yes_no: "yes/no questions", weak_is_there: "questions whether a thing is there", weak_count: "questions that count", weak_reading: "questions about written text", weak_colour: "questions about colours",
  card: "Its model card", reads: "It reads questions in {languages}.", madeBy: "{model} through crosslook, map of {kind}", madeByReading: "{model} through crosslook, where the text stands",
  where: "{text} looked most at the {place}", read: "For {text} it looked most at the {place}",
  stands: "The text {text} stands at the {place}",
  off_raw: "{share} of the attention for {text} went to no place in the image. Of the rest, most went to the {place}.",
  off_gradient: "{share} of what counted for {text} is not in the image. Of the rest, most is at the {place}.",
  off_rollout: "{share} of what made up {text} came from the words, or from no place in the image. Of the rest, most came from the {place}.",
  elsewhere: "{share} off the image",
  noMap: "This model gives no maps.", nowhere: "This was read from no place in the image.", imageAlt: "The image you ask about: {name}", preparing: "Looking at the image …", ready: "Image ready.",
  answered: "Answer: {answer}, {share}.",
  needQuestion: "Type a question first.", needImage: "Choose an image first.",
  cannotShow: "That file is no image that can be shown. Choose a JPEG, PNG, WebP or HEIC file.",
  heic: "This HEIC photograph cannot be read here. Save it as JPEG and choose that (on an iPhone: Settings, Camera, Formats, Most Compatible).",
  offline: "The server cannot be reached. See whether it still runs, then try again.",
  requestId: "request {id}",
};

const CHINESE = {
  skip: "跳到主要内容",
  tagline: "对图片提问，看清每个词看向了哪里。",
  settings: "设置", image: "图片", questions: "问题与回答",
  docs: "接口", theme_auto: "主题：跟随设备", theme_light: "主题：浅色", theme_dark: "主题：深色",
  drop: "把图片拖到这里，或直接粘贴", choose: "选择图片", camera: "拍照",
  examples: "或者先试试这些", failure: "（它会答错）",
  example_cat: "一只猫", example_coffee: "一杯咖啡", example_rocket: "一枚火箭", example_astronaut: "一名宇航员",
  example_camera: "摄像机后的男子", example_raccoon: "一只浣熊",
  opacity: "强度", colours: "配色", layer: "层", kind: "显示", smooth: "平滑", box: "方框", allLayers: "全部",
  colours_spotlight: "聚光", colours_viridis: "Viridis", colours_magma: "Magma", colours_cividis: "Cividis",
  kind_raw: "注意力", kind_gradient: "起作用之处", kind_rollout: "追溯的注意力", kind_similarity: "相似程度",
  explain: "这些是什么",
  explain_raw: "模型给出这个回答时，注意力落在哪里。",
  explain_gradient: "回答取决于哪里：多看这些地方，回答会更确定。",
  explain_rollout: "沿着词与词互相查看的各个步骤往回追溯的注意力。",
  explain_similarity: "对模型来说，这个词与各个位置有多相似；与注意力无关。",
  named: "它在接口里叫 {name}。",
  less: "少", more: "多", outlined: "轮廓内：最强处",
  save: "存为 PNG", link: "复制链接", change: "换一张图片", gallery: "你的图片", goTo: "转到 {name}", goToUnsent: "转到 {name}（没有发送）",
  refused: "无法提问的文件", remove: "移除 {name}", ofFile: "{name}：{error}",
  sending: "正在发送图片，{share}", cancel: "取消", stopped: "图片没有发送。", retry: "重新发送",
  askedOf: "这个链接对 {name} 提问{question}。选择那张图片即可再问一次。",
  question: "你的问题", placeholder: "想知道什么？", ask: "提问", asking: "正在回答…", readingText: "正在识别文字…",
  narrow: "只在给定答案中选择", candidates: "可能的答案，用逗号分隔", candidatesExample: "cat, dog, horse",
  key: "API 密钥", useKey: "使用",
  pointer: "指向或点按一个词，看它看向了哪里。",
  earlier: "关于这张图片的提问", code: "在你自己的代码中做同样的事", copy: "复制", copied: "已复制", copiedQuestion: "已复制（不含照片）",
  trust: "注意力图显示模型看了哪里，并不说明它为什么这样回答。图片只留在本服务器的内存中，过一段时间就会丢弃。",
  others: "其他答案", unknown: "不在它自己的答案之列，仅按措辞评分：{answers}",
  over_vocabulary: "在它知道的所有答案中占 {share}", over_candidates: "在给定答案中占 {share}",
  over_sequence: "恰好是这些词的概率为 {share}", over_text: "正是所问文字的概率为 {share}",
  meta: "{model} · {time} 毫秒",
  notSure: "不确定", notSureLine: "不确定：{answers}", or: "或许是{answers}",
  measured: "测试时，这样的回答有 {share} 是对的（{count} 个问题）。",
  weak: "这里最好别信它：测试时，它对{what}的回答只有 {share} 是对的。",
  weak_yes_no: "是非问题", weak_is_there: "问有没有某样东西的问题", weak_count: "数数的问题", weak_reading: "关于文字的问题", weak_colour: "关于颜色的问题",
  card: "模型说明（英文）", reads: "它能读懂的语言：{languages}。", madeBy: "{model}，经由 crosslook，显示：{kind}", madeByReading: "{model}，经由 crosslook，显示文字所在",
  where: "{text}主要看向{place}", read: "回答{text}时主要看向{place}", elsewhere: "{share} 未落在图片上",
  stands: "文字{text}在{place}",
  off_raw: "对{text}的注意力有 {share} 没有落在图片上；其余的主要看向{place}。",
  off_gradient: "对{text}起作用的，有 {share} 不在图片里；其余的主要在{place}。",
  off_rollout: "{text}有 {share} 来自文字本身，或没有落在图片上；其余的主要来自{place}。",
  noMap: "这个模型不提供注意力图。", nowhere: "图片中没有对应的位置。", imageAlt: "所问的图片：{name}", preparing: "正在看图…", ready: "图片已就绪。",
  answered: "回答：{answer}，{share}。",
  needQuestion: "请先输入问题。", needImage: "请先选择图片。",
  cannotShow: "这个文件不是可以显示的图片。请选择 JPEG、PNG、WebP 或 HEIC 文件。",
  heic: "这里读不了这张 HEIC 照片。请存为 JPEG 再选择（iPhone：设置、相机、格式、兼容性最佳）。",
  offline: "连接不到服务器。请确认它仍在运行，然后再试。",
  requestId: "请求 {id}",
};

// [row][column] of a 3 x 3 split of the image
const PLACES = {
  en: [["upper left", "top", "upper right"], ["left side", "centre", "right side"], ["lower left", "bottom", "lower right"]],
  zh: [["左上方", "上方", "右上方"], ["左侧", "中央", "右侧"], ["左下方", "下方", "右下方"]],
};

// Error codes of the API in Chinese; in English the server's own message stands, which has the figures.
const ERRORS = {
  offline: "连接不到服务器。请确认它仍在运行，然后再试。", invalid_api_key: "API 密钥缺失或无效。", image_not_found: "服务器已不再保存这张图片，请重新选择。",
  request_incomplete: "请求没能在时限内传完，请再试一次。",
  body_too_large: "请求太大，超出了服务器的上限。", image_too_large: "图片太大，超出了服务器的上限。",
  unsupported_image: "不支持这种图片格式。", image_broken: "图片已损坏或不完整。", image_too_small: "图片太小，看不清。",
  invalid_request: "请求中有无效的内容。", question_empty: "问题是空的。", question_too_long: "问题太长了。",
  question_not_understood: "模型看不懂这个问题。", map_not_supported: "这个模型不支持这种图或这一层。",
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

// Names of languages by their codes: "English and Chinese".
export const languageNames = (codes) => new Intl.ListFormat(language).format(codes.map((code) => new Intl.DisplayNames(language, { type: "language" }).of(code)));

// What to do about an error that does not say so itself, in both languages.
const ADVICE = {
  en: {
    unsupported_image: "Save it as JPEG or PNG and choose that.", image_broken: "Save it anew, or choose another.",
    image_too_small: "Choose a larger one.", question_not_understood: "Ask in plain words.", internal_error: "Try again.",
    rate_limited: "Wait a moment and try again.", overloaded: "Wait a moment and try again.", not_ready: "Wait a moment and try again.",
    worker_failed: "Try again.", deadline_exceeded: "Try again.", request_incomplete: "Try again.", invalid_api_key: "Type the key below.",
  },
  zh: { unsupported_image: "请存为 JPEG 或 PNG 再选择。", image_broken: "请重新保存，或换一张。", image_too_small: "请选择更大的图片。",
    question_not_understood: "请换个简单的说法。", invalid_api_key: "请在下面输入密钥。" },
};
export function advice(error) {
  const read = language === "zh" && error.code === "question_not_understood" && error.detail?.languages; // in English it says so itself
  return [read ? t("reads", { languages: languageNames(read) }) : "", ADVICE[language][error.code] ?? ""].join(" ").trim();
}

// Things in a row: "a, b or c".
export const listed = (texts) => new Intl.ListFormat(language, { type: "disjunction" }).format(texts);

// A share as a percentage with two significant digits below 10%.
export function percent(share) {
  if (share > 0 && share < 0.0005) return `<${percent(0.001)}`;
  const digits = share >= 0.1 || share === 0 ? 0 : 1;
  return new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(share);
}
