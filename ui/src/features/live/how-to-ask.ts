/** The guide's commands, as the explorer hands them out. */

export const LAUNCH_SERVER = `python -m sglang.launch_server \\
    --model Qwen/Qwen3-4B-Thinking-2507 \\
    --attention-backend triton \\
    --return-attention-tokens \\
    --attention-tokens-top-k 32 \\
    --port 30000`;

export const ASK_WITH_CURL = `curl -N http://localhost:30000/v1/chat/completions \\
  -H 'Content-Type: application/json' \\
  -d '{"model": "default", "stream": true, "return_attention_tokens": true,
       "messages": [{"role": "user", "content": "What is 2+2?"}]}'`;

export const ASK_WITH_OPENAI = `from openai import OpenAI

client = OpenAI(base_url="http://localhost:30000/v1", api_key="none")
response = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "What is 2+2?"}],
    extra_body={"return_attention_tokens": True},
    stream=True,
)
for chunk in response:
    print(chunk.choices[0].delta)`;

export const ASK_FOR_TOP_K = `extra_body={"return_attention_tokens": True}`;
