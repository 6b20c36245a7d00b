// The JSON reader: what it accepts, and that nothing else gets through.
#include <string>
#include <utility>

#include "abi/failure.h"
#include "check.h"
#include "weights/json.h"

namespace {

up::Json parse(std::string_view text) { return up::parse_json("test", text, 1 << 20); }

std::string failure_of(std::string_view text, size_t max_bytes = 1 << 20) {
  try {
    up::parse_json("test", text, max_bytes);
  } catch (const up::Failure &failure) {
    CHECK(failure.status == UP_CORRUPT_FILE);
    return failure.detail;
  }
  return "";
}

void check_refused(std::string_view text, const char *expected) {
  const std::string detail = failure_of(text);
  CHECK(detail.find(expected) != std::string::npos, "%.*s: expected \"%s\", got \"%s\"", static_cast<int>(text.size()),
        text.data(), expected, detail.c_str());
}

std::string nested(int depth) { return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']'); }

void check_values() {
  const up::Json json = parse(" {\"a\": [1, -2.5e3, true, false, null], \"\": \"x\", \"b\": {\"c\": 9007199254740993}}\n");
  CHECK(json.is_object() && json.members.size() == 3);
  const up::Json *a = json.find("a");
  CHECK(a != nullptr && a->items.size() == 5);
  CHECK(a->items[0].is_integer && a->items[0].integer == 1 && a->items[0].number == 1);
  CHECK(!a->items[1].is_integer && a->items[1].number == -2500);
  CHECK(a->items[2].boolean && !a->items[3].boolean && a->items[4].is_null());
  CHECK(json.find("b")->find("c")->integer == 9007199254740993);
  CHECK(json.find("d") == nullptr && a->find("a") == nullptr);
  CHECK(!parse("1.0").is_integer && !parse("1e2").is_integer);
  CHECK(!parse("18446744073709551616").is_integer && parse("18446744073709551616").number == 0x1p64);
  CHECK(parse("-0").integer == 0 && parse("0.5").number == 0.5);
}

void check_strings() {
  CHECK(parse("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"").string == "\"\\/\b\f\n\r\t");
  CHECK(parse("\"\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"").string == "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(parse("\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"").string == "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(parse(std::string_view("\"a\\u0000b\"")).string == std::string("a\0b", 3));
  check_refused("\"\\ud83d\"", "high surrogate stands alone");
  check_refused("\"\\ud83d\\u0041\"", "high surrogate stands alone");
  check_refused("\"\\ude00\"", "low surrogate stands alone");
  check_refused("\"\\u12g4\"", "hexadecimal");
  check_refused("\"\\x41\"", "unknown escape");
  check_refused("\"\n\"", "control character");
  check_refused("\"abc", "ends inside a string");
  check_refused("\"\\", "unknown escape");
  for (const char *bytes : {"\"\x80\"", "\"\xc0\xaf\"", "\"\xc3\"", "\"\xe0\x80\x80\"", "\"\xed\xa0\x80\"",
                            "\"\xf0\x80\x80\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xff\"", "\"\xe2\x82", "\"\xf5\x80\x80\x80\""}) {
    check_refused(bytes, "not UTF-8");
  }
}

void check_refusals() {
  for (const char *text : {"", " ", "{", "[", "[1", "[1,", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "]", "}", ",", "nul",
                           "True", "[1 2]", "[1,]", "{\"a\" 1}", "{a:1}", "{\"a\":1,}", "1 1", "01", "+1", ".5", "1.", "1e",
                           "1e+", "-", "0x10", "NaN", "Infinity", "'a'", "//x\n1", "[1]]", "{\"a\":1}x"}) {
    CHECK(!failure_of(text).empty(), "accepted: %s", text);
  }
  CHECK(!failure_of(std::string_view("1\0", 2)).empty());
  CHECK(!failure_of("\xef\xbb\xbf{}").empty(), "a byte order mark");
  check_refused("1e999", "out of range");
  check_refused("{\"a\":1,\"b\":2,\"a\":3}", "\"a\" is repeated");
  check_refused("{\"a\":1,\"\\u0061\":3}", "\"a\" is repeated");
  CHECK(failure_of(nested(up::json_max_depth)).empty());
  check_refused(nested(up::json_max_depth + 2), "nested deeper than 64");
  check_refused(nested(100000), "nested deeper than 64");
  CHECK(failure_of("[1]", 2) == "test: 3 bytes, at most 2 are read");
  CHECK(failure_of("[1,x]") == "test: byte 3 of 5: a value was expected");
}

}  // namespace

int main() {
  check_values();
  check_strings();
  check_refusals();
  return check_result();
}
