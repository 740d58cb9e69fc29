"""What Deepwell itself says inside an answer, in the language of the question."""

from pipelines.language import Language

#: the one command that brings a real model in the stand-in's place
PULL = "deepwell models pull deepseek-r1:7b"

#: nothing relevant was found
NOTHING_FOUND: dict[Language, str] = {
    "en": "The knowledge base has no passage that answers this question.",
    "ja": "ナレッジベースには、この質問に答える記述が見つかりませんでした。",
    "zh": "知识库中没有找到能够回答这个问题的内容。",
}

#: leads the quotes of an extractive answer
QUOTES: dict[Language, str] = {
    "en": "The passages that answer best:",
    "ja": "質問に最も近い記述は次のとおりです。",
    "zh": "与问题最相关的原文如下：",
}

#: ends every answer of the stand-in
STAND_IN: dict[Language, str] = {
    "en": "These are quotes: only the packaged stand-in model (SmolLM2-135M, English only) is installed. "
    f"To have DeepSeek-R1 write the answers, run: `{PULL}`",
    "ja": "以上は原文の引用です。現在は同梱の代役モデル（SmolLM2-135M、英語のみ）しか入っていません。"
    f"DeepSeek-R1 に回答を書かせるには次を実行してください: `{PULL}`",
    "zh": "以上为原文摘录：目前只安装了随附的替身模型（SmolLM2-135M，仅支持英语）。"
    f"若要由 DeepSeek-R1 撰写回答，请运行：`{PULL}`",
}

#: the same where there is nothing to quote
STAND_IN_ALONE: dict[Language, str] = {
    "en": f"Only the packaged stand-in model (SmolLM2-135M, English only) is installed. To bring DeepSeek-R1: `{PULL}`",
    "ja": f"現在は同梱の代役モデル（SmolLM2-135M、英語のみ）しか入っていません。DeepSeek-R1 を導入するには: `{PULL}`",
    "zh": f"目前只安装了随附的替身模型（SmolLM2-135M，仅支持英语）。要安装 DeepSeek-R1，请运行：`{PULL}`",
}

#: the stand-in was asked something without a knowledge base
STAND_IN_CHAT: dict[Language, str] = {
    "en": "Only the packaged stand-in model (SmolLM2-135M, English only) is installed, and it is too small to talk "
    f"with. Choose a knowledge base to get cited quotes, or bring DeepSeek-R1 with: `{PULL}`",
    "ja": "現在は同梱の代役モデル（SmolLM2-135M、英語のみ）しか入っておらず、会話には小さすぎます。"
    f"ナレッジベースを選ぶと引用付きの抜粋を返します。DeepSeek-R1 を導入するには: `{PULL}`",
    "zh": "目前只安装了随附的替身模型（SmolLM2-135M，仅支持英语），它太小，无法对话。"
    f"选择知识库可以得到带引用的摘录；要安装 DeepSeek-R1，请运行：`{PULL}`",
}

#: the limit was met while thinking, and nothing could be done about it
CUT_WHILE_THINKING: dict[Language, str] = {
    "en": "The model used up its {tokens} tokens while thinking and wrote no answer. Allow more tokens (max_tokens), "
    "or ask a narrower question.",
    "ja": "モデルは {tokens} トークンを思考だけで使い切り、回答を書けませんでした。"
    "上限（max_tokens）を増やすか、質問を絞ってください。",
    "zh": "模型在思考阶段就用完了 {tokens} 个 token，没有写出回答。请提高上限（max_tokens），或缩小问题范围。",
}

#: the model ended without a word
EMPTY: dict[Language, str] = {
    "en": "The model ended without writing an answer. Ask again, or choose another model.",
    "ja": "モデルは回答を書かずに終了しました。もう一度質問するか、別のモデルを選んでください。",
    "zh": "模型没有写出回答就结束了。请重新提问，或换用其他模型。",
}

#: ends a chain of thought that ran into its limit; goes to the model, not to the reader
ENOUGH: dict[Language, str] = {
    "en": "\n\nI have thought long enough and answer now from what I have.\n",
    "ja": "\n\n十分に考えたので、ここまでの内容で答える。\n",
    "zh": "\n\n思考已经足够，现在根据已有内容作答。\n",
}

#: asks the model to write in the right language (`language` is English, French, …); goes to the model, in that language
WRITE_IN: dict[Language, str] = {
    "en": "Write the answer in {language}.",
    "ja": "回答は必ず日本語で書いてください。",
    "zh": "请务必用中文回答。",
}
#: the same as the end of its thinking
I_WRITE_IN: dict[Language, str] = {
    "en": "\n\nThe answer has to be in {language}. I write it in {language} now.\n",
    "ja": "\n\n回答は日本語で書く必要がある。日本語で答える。\n",
    "zh": "\n\n必须用中文回答。现在用中文写出答案。\n",
}

#: how models say that the passages do not answer; lower case
REFUSALS = (
    "none of the search results",
    "none of the passages",
    "not answer",
    "no information",
    "not contain",
    "not mention",
    "not provide",
    "not found",
    "cannot find",
    "could not find",
    "unable to find",
    "没有任何搜索结果",
    "没有找到",
    "未找到",
    "没有提到",
    "未提及",
    "没有提供",
    "无法回答",
    "不包含",
    "見つかりません",
    "見当たりません",
    "記載されていません",
    "記載はありません",
    "含まれていません",
    "答えていません",
    "回答できません",
    "情報はありません",
)
