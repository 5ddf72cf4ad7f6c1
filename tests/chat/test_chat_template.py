"""Chat templates render as in transformers; hostile ones end soon and in little memory."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reference.tiny_tokenizer import CHAT_TEMPLATE, write_tokenizer
from specrt.chat_template import MAX_TEMPLATE_CHARACTERS, ChatTemplate
from specrt.tokenizer import Tokenizer

# In the manner of well-known models; each uses something that the others do not.
TEMPLATES = {
    "tiny": CHAT_TEMPLATE,
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}\n"
        "{% for message in messages %}\n"
        "    {{ '<|im_start|>' + message['role'] + '\\n' + message.content + '<|im_end|>\\n' }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "headers and a date": (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n"
        "    {%- if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}\n"
        "    {%- else %}{% set date_string = 'no date' %}{%- endif %}\n"
        "{%- endif %}\n"
        "{%- if messages[0].role == 'system' %}\n"
        "    {%- set system = messages[0]['content'] | trim %}{%- set rest = messages[1:] %}\n"
        "{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}\n"
        "{{- '<h>system</h>\\n\\nToday: ' ~ date_string ~ '\\n' ~ system }}\n"
        "{%- for m in rest %}{{- '<h>' + m['role'] + '</h>\\n\\n' + m['content'] | trim }}\n"
        "{%- endfor %}\n"
        "{%- if tools is not none %}{{ raise_exception('no tools were given') }}{%- endif %}"
    ),
    "tools and a namespace": (
        "{%- if tools %}{{- tools | tojson }}{%- endif %}\n"
        "{%- set ns = namespace(last=messages | length - 1, found=false) %}\n"
        "{%- for m in messages[::-1] %}{%- set index = (messages | length - 1) - loop.index0 %}\n"
        "    {%- if m.role == 'user' and not ns.found %}\n"
        "        {%- set ns.found = true %}{%- set ns.last = index %}{%- endif %}\n"
        "{%- endfor %}\n"
        "{%- for m in messages %}{{- '<' ~ m.role ~ ' ' ~ loop.index ~ '/' ~ loop.length ~ '>' }}\n"
        "    {%- if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}\n"
        "    {%- elif loop.index0 >= ns.last %}{{ m.content }}{%- else %}{{ m.content[:9] }}…\n"
        "    {%- endif %}\n"
        "{%- endfor %}"
    ),
    "strict turns": (
        "{%- set loop_messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
        "{%- set system = messages | selectattr('role', 'equalto', 'system')"
        " | map(attribute='content') | join('; ') %}"
        "{{ bos_token }}{% for m in loop_messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if m.role == 'user' %}{{ '[INST] ' }}"
        "{% if loop.last and system %}{{ system + '\\n' }}{% endif %}{{ m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant are supported') }}{% endif %}"
        "{% endfor %}"
    ),
    "macro, generation and loop controls": (
        "{% macro turn(role, text='') -%}<{{ role | upper }}>{{ text | replace('<', '&lt;') }}\n"
        "{%- endmacro %}"
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index > 6 %}{% break %}{% endif %}"
        "{% if m.role == 'assistant' %}{% generation %}{{ turn('model', m.content) }}"
        "{% endgeneration %}{% else %}{{ turn(m.role, m.content) }}{% endif %}\n{% endfor %}"
    ),
    "json, formats and numbers": (
        "{{ messages | tojson(indent=2) }}{{ {'é': [1, none, true], 'b': 2.5} | tojson }}"
        "{{ dict(a=1, b=(2, 3)) | dictsort }}{{ '%s has %05.1f' % ('x', 3.14159) }}"
        "{{ '{:>6}|{:,}'.format('ab', 1234567) }}{{ '%s' | format('y') }}{{ 7 * 3 ** 2 % 10 }}"
        "{{ [1, 2] + [3] * 2 }}{{ 'ab' * 3 }}{{ ', '.join(['p', 'q']) }}{{ 'a\\nb' | indent(2) }}"
        "{% for key, value in messages[0].items() %}{{ key }}={{ value | lower }};{% endfor %}"
        "{% set text %}[{{ messages[0].content }}]{% endset %}{{ text | length }}{{ nothing }}"
        "{{ messages[0].get('name', 'nobody') | default('x') }}{{ messages[-1].content is string }}"
    ),
}
CONVERSATIONS = {
    "one": [{"role": "user", "content": "What is <this>?"}],
    "three": [
        {"role": "user", "content": "  Hello there, you old machine \n"},
        {"role": "assistant", "content": "<think>hm\n</think>\n\nCafés & ☃"},
        {"role": "user", "content": "And {{ then }}?"},
    ],
    "system": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ],
    "two of a user": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
}


def tokenizer_folder(folder: Path, template: str) -> Path:
    write_tokenizer(folder, 256)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"chat_template": template}))
    return folder


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_render_as_in_transformers(
    template: str, conversation: list[dict[str, str]], tmp_path: Path
) -> None:
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    folder = tokenizer_folder(tmp_path, template)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer(folder)
    try:
        expected = theirs.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            ours.apply_chat_template(conversation)
        return
    assert ours.apply_chat_template(conversation) == expected
    assert (
        ours.encode_chat(conversation)
        == theirs.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
    )


def test_the_demo_renders_as_in_transformers(demo_bundle: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(demo_bundle)
    for conversation in CONVERSATIONS.values():
        assert Tokenizer(demo_bundle).apply_chat_template(conversation) == (
            theirs.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        )


def test_a_template_writes_the_special_tokens_itself(tmp_path: Path) -> None:
    """A tokenizer that begins texts with a token of its own does not do so behind a template."""
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers.processors import TemplateProcessing

    folder = tokenizer_folder(tmp_path, "{{ bos_token }}{{ messages[0].content }}")
    inner = HfTokenizer.from_file(str(folder / "tokenizer.json"))
    inner.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    inner.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer(folder)
    assert tokenizer.encode("ab") == [0, 7 + 97, 7 + 98]
    assert tokenizer.encode_chat([{"role": "user", "content": "ab"}]) == tokenizer.encode("ab")


BOMB = "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = VALUE %}{% endfor %}"
BILLION = "{% for i in range(100000) %}{% for j in range(100000) %}BODY{% endfor %}{% endfor %}"
HOSTILE = {
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "a repeated text": "{{ 'a' * 10**10 }}",
    "a repeated list": "{{ 10**10 * [0] }}",
    "a large power": "{{ 10 ** (10 ** 10) }}",
    "a large product": "{{ (2 ** 4000) * (2 ** 4000) }}",
    "a large number": "{{ ('v' * 800000) | int(base=32) // 7 }}",
    "a wide %": "{{ '%10000000000s' % 'a' }}",
    "a computed width": "{{ '%*s' % (10**10, 'a') }}",
    "a wide field": "{{ '{:10000000000}'.format(1) }}",
    "a nested field": "{{ '{:{}}'.format(1, 10**10) }}",
    "many fields": "{{ ('{0}' * 1000000).format('a' * 1000000) }}",
    "many names": "{{ ('%(a)s' * 100000) % {'a': 'b' * 100000} }}",
    "format as a filter": "{{ ('%s' * 9) | format('a' * 999999) }}{{ '%99999s' | format('a') }}",
    "a padded text": "{{ 'a'.ljust(10**10) }}",
    "a padding filter": "{{ 'a' | center(10**10) }}",
    "an indented text": "{{ ('\\n' * 1000000) | indent('a' * 1000000) }}",
    "a replacement": "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
    "a replacing filter": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "a joined text": "{{ ('b' * 1000000).join('a' * 1000000) }}",
    "a joining filter": "{{ range(100000) | join('b' * 1000000) }}",
    "a doubled text": BOMB.replace("VALUE", "ns.x + ns.x"),
    "a doubled text by ~": BOMB.replace("VALUE", "ns.x ~ ns.x"),
    "a doubled list": BOMB.replace("VALUE", "[ns.x, ns.x]") + "{{ ns.x }}",
    "a doubled tuple": BOMB.replace("VALUE", "(ns.x, ns.x)") + "{{ ns.x | tojson }}",
    "a doubled mapping": BOMB.replace("VALUE", "dict(a=ns.x, b=ns.x)") + "{{ ns.x | string }}",
    "a doubled block": "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n else 'ab' }}{% endmacro %}"
    "{{ m(60) }}",
    "nested loops": BILLION.replace("BODY", ""),
    "long literals": "{% set x %}" + BILLION.replace("BODY", "z" * 9999) + "{% endset %}",
    "slices": "{% set s = 'a' * 999999 %}" + BILLION.replace("BODY", "{% set t = s[1:] %}"),
    "lazy filters": "{% set x = range(100000) | list %}{% for i in x %}{% set n = (x | map('upper')"
    " | select | reject('eq', 'a') | list | length) %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "deep brackets": "{{ " + "(" * 50000,
    "a long template": "x" * (MAX_TEMPLATE_CHARACTERS + 1),
    "a long date": "{{ strftime_now('%c' * 100000) }}",
    "random text": "{{ lipsum(n=1000000) }}",
    "Python's internals": "{{ ''.__class__.__mro__ }}",
    "Python's internals by filter": "{{ ('' | attr('__class__')).mro() }}",
    "Python's internals by format": "{{ '{0.__class__.__mro__.x}'.format(1) }}",
    "names with a meaning": "{{ namespace(__html__=range) }}",
    "assigned names with a meaning": "{% set n = namespace() %}{% set n.__html__ = range %}",
    "changed messages": "{{ messages.append(1) }}",
    "other files": "{% include '/etc/passwd' %}",
    "a division": "{{ 1 / 0 }}",
    "no template": "{% if %}",
    "a long message": "{{ raise_exception('no' * 1000000) }}",
}
IN_LITTLE_MEMORY = """
import json, pathlib, re, sys
from specrt.chat_template import ChatTemplate
for template in json.load(sys.stdin):
    try:
        print(ChatTemplate(template).render([{"role": "user", "content": "Hello"}]))
    except ValueError:
        pass
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) >> 10)
"""


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_ends_with_an_error(template: str) -> None:
    began = time.thread_time()
    with pytest.raises(ValueError, match="the chat template") as caught:
        ChatTemplate(template).render([{"role": "user", "content": "Hello"}])
    assert time.thread_time() - began < 5
    assert len(str(caught.value)) < 400


def test_hostile_templates_take_little_memory() -> None:
    kinds = ("a doubled", "a joined", "an indented", "long literals", "many", "slices")
    growing = [template for name, template in HOSTILE.items() if name.startswith(kinds)]
    assert len(growing) > len(kinds)
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY],
        input=json.dumps(growing),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 200  # MB, Python with its libraries included


def test_the_budget_grows_with_the_conversation() -> None:
    """What is a bomb behind a short message is a plain prompt of a long conversation."""
    template = ChatTemplate(TEMPLATES["chatml"])
    messages = [{"role": "user", "content": "word " * 200}] * 3000
    assert len(template.render(messages, add_generation_prompt=True)) > 3_000_000


def test_a_template_recovers_from_a_failure(tmp_path: Path) -> None:
    tokenizer = Tokenizer(tokenizer_folder(tmp_path, "{{ messages[0].content * 1000000 }}"))
    with pytest.raises(ValueError, match="more text"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x" * 2000}])
    assert len(tokenizer.apply_chat_template([{"role": "user", "content": "x"}])) == 1000000
