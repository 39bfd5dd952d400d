"""Ask one question of a server in OpenAI's dialect through the released litellm and llama-index: prints JSON."""

import base64
import json
import sys

import litellm
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike

url, file, question, model = sys.argv[1:]
with open(file, "rb") as opened:
    data = opened.read()
uri = "data:image/png;base64," + base64.b64encode(data).decode()
chat = [
    {"role": "user", "content": [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": uri}}]}
]
said = {}
options = {"model": f"openai/{model}", "messages": chat, "api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}
said["litellm"] = litellm.completion(**options).choices[0].message.content
chunks = litellm.completion(**options, stream=True)
said["litellm, streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
given = [
    {"role": "user", "content": [{"type": "input_text", "text": question}, {"type": "input_image", "image_url": uri}]}
]
answer = litellm.responses(model=f"openai/{model}", input=given, api_base=f"{url}/v1", api_key="none")
said["litellm responses"] = answer.output[0].content[0].text
index = OpenAILike(model=model, api_base=f"{url}/v1", api_key="none", is_chat_model=True, max_retries=0)
message = ChatMessage(
    role="user", blocks=[TextBlock(text=question), ImageBlock(image=data, image_mimetype="image/png")]
)
said["llama-index"] = index.chat([message]).message.content
said["llama-index, streamed"] = "".join(chunk.delta or "" for chunk in index.stream_chat([message]))
sys.stdout.write(json.dumps(said))
