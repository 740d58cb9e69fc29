"""The language of a question, told by its script."""

import pytest

from pipelines.language import detect


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("How long is the notice period?", "en"),
        ("What does 有給休暇 mean?", "en"),
        ("What does ありがとう mean?", "en"),
        ("Wie lange ist die Frist?", "en"),
        ("", "en"),
        ("12 + 5 = ?", "en"),
        ("有給休暇は何日ですか", "ja"),
        ("DeepSeek R1とは", "ja"),
        ("Deepwell server API key の設定", "ja"),
        ("エラー", "ja"),
        ("有給休暇 申請方法", "ja"),
        ("東京本社 営業時間", "ja"),
        ("残業手当 計算", "ja"),
        ("経費精算 期限", "ja"),
        ("年假有多少天？", "zh"),
        ("DeepSeek R1 是什么？", "zh"),
        ("报销期限", "zh"),
        ("請問年假有幾天？", "zh"),
        ("公司 报销 流程", "zh"),
        ("日语的「ありがとう」在什么场合使用，和其他说法有哪些区别？", "zh"),
        ("```python\nprint('は')\n```\nWhy does this fail?", "en"),
        ("这个函数为什么报错：`TypeError: x is not a function`", "zh"),
    ],
)
def test_detect(question: str, language: str) -> None:
    assert detect(question) == language
