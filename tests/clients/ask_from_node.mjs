// Ask one question of a server through the released clients of npm: prints JSON.
import OpenAI from 'openai';
import { generateText, streamText } from 'ai';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { InferenceClient } from '@huggingface/inference';
import { readFile } from 'node:fs/promises';

const [url, file, question, model] = process.argv.slice(2);
const data = await readFile(file);
const uri = `data:image/png;base64,${data.toString('base64')}`;
const said = {};
async function ask(name, work) {
  try { said[name] = await work(); } catch (error) { said[name] = `${error.name}: ${error.message}`; }
}
const chat = [{ role: 'user', content: [{ type: 'text', text: question }, { type: 'image_url', image_url: { url: uri } }] }];
const input = [{ role: 'user', content: [{ type: 'input_text', text: question }, { type: 'input_image', image_url: uri, detail: 'auto' }] }];

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
await ask('openai chat', async () => (await openai.chat.completions.create({ model, messages: chat })).choices[0].message.content);
await ask('openai chat, streamed', async () => {
  let text = '';
  for await (const chunk of await openai.chat.completions.create({ model, messages: chat, stream: true })) text += chunk.choices[0]?.delta?.content ?? '';
  return text;
});
await ask('openai chat, stream helper', async () => (await openai.chat.completions.stream({ model, messages: chat }).finalContent()));
await ask('openai responses', async () => (await openai.responses.create({ model, input })).output_text);
await ask('openai responses, streamed', async () => {
  let text = '';
  for await (const event of await openai.responses.create({ model, input, stream: true })) if (event.type === 'response.output_text.delta') text += event.delta;
  return text;
});
await ask('openai responses, stream helper', async () => (await openai.responses.stream({ model, input }).finalResponse()).output_text);

const messages = [{ role: 'user', content: [{ type: 'text', text: question }, { type: 'image', image: data }] }];
const providers = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
const compatible = createOpenAICompatible({ name: 'crosslook', baseURL: `${url}/v1` });
for (const [name, chosen] of [['ai, responses', providers.responses(model)], ['ai, chat', providers.chat(model)], ['ai, compatible', compatible(model)]]) {
  await ask(name, async () => (await generateText({ model: chosen, messages, maxRetries: 0 })).text);
  await ask(`${name}, streamed`, async () => {
    let text = '';
    for await (const delta of streamText({ model: chosen, messages, maxRetries: 0, onError() {} }).textStream) text += delta;
    return text;
  });
}

const hub = new InferenceClient('none', { endpointUrl: url });
const image = new Blob([data]);
await ask('hub visualQuestionAnswering', async () => (await hub.visualQuestionAnswering({ inputs: { question, image } })).answer);
await ask('hub documentQuestionAnswering', async () => (await hub.documentQuestionAnswering({ inputs: { question, image } })).answer);
await ask('hub zeroShotImageClassification', async () => (await hub.zeroShotImageClassification({ inputs: { image }, parameters: { candidate_labels: ['blue', 'red'] } }))[0].label);
await ask('hub chatCompletion', async () => (await hub.chatCompletion({ model, messages: chat })).choices[0].message.content);
await ask('hub chatCompletion, streamed', async () => {
  let text = '';
  for await (const chunk of hub.chatCompletionStream({ model, messages: chat })) text += chunk.choices[0]?.delta?.content ?? '';
  return text;
});
console.log(JSON.stringify(said));
