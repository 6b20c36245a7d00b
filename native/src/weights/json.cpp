#include "weights/json.h"

#include <charconv>
#include <unordered_set>

#include "abi/failure.h"

namespace up {
namespace {

class Parser {
 public:
  Parser(std::string_view source, std::string_view text) : source_(source), text_(text) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) error("text after the end of the value");
    return value;
  }

 private:
  [[noreturn]] void error(std::string_view what) const {
    fail(UP_CORRUPT_FILE, "parse JSON", source_, ": byte ", at_, " of ", text_.size(), ": ", what);
  }

  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }

  void skip_space() {
    while (more() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) at_++;
  }

  void expect_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) error("a value was expected");
    at_ += word.size();
  }

  Json parse_value(int depth) {
    if (depth > json_max_depth) error(text("nested deeper than ", json_max_depth));
    skip_space();
    if (!more()) error("the text ends where a value was expected");
    Json value;
    switch (peek()) {
      case '{': parse_object(value, depth); break;
      case '[': parse_array(value, depth); break;
      case '"':
        value.kind = Json::Kind::string;
        value.string = parse_string();
        break;
      case 't':
        expect_word("true");
        value.kind = Json::Kind::boolean;
        value.boolean = true;
        break;
      case 'f':
        expect_word("false");
        value.kind = Json::Kind::boolean;
        break;
      case 'n': expect_word("null"); break;
      default: parse_number(value);
    }
    return value;
  }

  void parse_object(Json &value, int depth) {
    value.kind = Json::Kind::object;
    std::unordered_set<std::string> names;
    at_++;
    skip_space();
    if (peek() == '}') {
      at_++;
      return;
    }
    for (;;) {
      skip_space();
      if (peek() != '"') error("a member name was expected");
      std::string name = parse_string();
      if (!names.insert(name).second) error(text("the member \"", name, "\" is repeated"));
      skip_space();
      if (peek() != ':') error("':' was expected");
      at_++;
      value.members.emplace_back(std::move(name), parse_value(depth + 1));
      skip_space();
      if (peek() == ',') {
        at_++;
      } else if (peek() == '}') {
        at_++;
        return;
      } else {
        error("',' or '}' was expected");
      }
    }
  }

  void parse_array(Json &value, int depth) {
    value.kind = Json::Kind::array;
    at_++;
    skip_space();
    if (peek() == ']') {
      at_++;
      return;
    }
    for (;;) {
      value.items.push_back(parse_value(depth + 1));
      skip_space();
      if (peek() == ',') {
        at_++;
      } else if (peek() == ']') {
        at_++;
        return;
      } else {
        error("',' or ']' was expected");
      }
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  void skip_digits() {
    if (!is_digit(peek())) error("a digit was expected");
    while (is_digit(peek())) at_++;
  }

  void parse_number(Json &value) {
    const size_t start = at_;
    if (peek() == '-') at_++;
    if (!is_digit(peek())) error("a value was expected");
    if (peek() == '0') {
      at_++;
    } else {
      skip_digits();
    }
    bool whole = true;
    if (peek() == '.') {
      whole = false;
      at_++;
      skip_digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      whole = false;
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      skip_digits();
    }
    const char *first = text_.data() + start;
    const char *last = text_.data() + at_;
    value.kind = Json::Kind::number;
    if (std::from_chars(first, last, value.number).ec != std::errc()) {
      at_ = start;
      error("the number is out of range");
    }
    value.is_integer = whole && std::from_chars(first, last, value.integer).ec == std::errc();
  }

  unsigned parse_hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const char c = peek();
      if (is_digit(c)) code = code * 16 + static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f') code = code * 16 + static_cast<unsigned>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') code = code * 16 + static_cast<unsigned>(c - 'A' + 10);
      else error("four hexadecimal digits were expected");
    }
    return code;
  }

  static void append_utf8(std::string &out, unsigned code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xc0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xe0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    } else {
      out += static_cast<char>(0xf0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
      out += static_cast<char>(0x80 | (code & 0x3f));
    }
  }

  void parse_escape(std::string &out) {
    at_++;
    switch (peek()) {
      case '"': out += '"'; break;
      case '\\': out += '\\'; break;
      case '/': out += '/'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'u': {
        at_++;
        unsigned code = parse_hex4();
        if (code >= 0xdc00 && code <= 0xdfff) error("a low surrogate stands alone");
        if (code >= 0xd800 && code <= 0xdbff) {
          if (text_.substr(at_, 2) != "\\u") error("a high surrogate stands alone");
          at_ += 2;
          const unsigned low = parse_hex4();
          if (low < 0xdc00 || low > 0xdfff) error("a high surrogate stands alone");
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(out, code);
        return;
      }
      default: error("an unknown escape");
    }
    at_++;
  }

  // Copies one well-formed UTF-8 sequence (no overlong forms, no surrogates, at most U+10FFFF).
  void parse_utf8(std::string &out) {
    const auto byte = [&](size_t i) {
      return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : 0u;
    };
    const unsigned lead = byte(0);
    size_t length = 0;
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) length = 2;
    else if (lead >= 0xe0 && lead <= 0xef) length = 3;
    else if (lead >= 0xf0 && lead <= 0xf4) length = 4;
    else error("a byte that is not UTF-8");
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    if (byte(1) < low || byte(1) > high) error("a byte that is not UTF-8");
    for (size_t i = 2; i < length; i++) {
      if ((byte(i) & 0xc0) != 0x80) error("a byte that is not UTF-8");
    }
    out.append(text_.substr(at_, length));
    at_ += length;
  }

  std::string parse_string() {
    std::string out;
    at_++;
    for (;;) {
      if (!more()) error("the text ends inside a string");
      const unsigned char c = static_cast<unsigned char>(peek());
      if (c == '"') {
        at_++;
        return out;
      }
      if (c < 0x20) error("a control character inside a string");
      if (c == '\\') {
        parse_escape(out);
      } else if (c < 0x80) {
        out += static_cast<char>(c);
        at_++;
      } else {
        parse_utf8(out);
      }
    }
  }

  std::string_view source_;
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const Json *Json::find(std::string_view name) const {
  for (const Member &member : members) {
    if (member.first == name) return &member.second;
  }
  return nullptr;
}

std::string Json::describe() const {
  switch (kind) {
    case Kind::null: return "null";
    case Kind::boolean: return boolean ? "true" : "false";
    case Kind::number: return is_integer ? text(integer) : text(number);
    case Kind::string: return text('"', string.substr(0, 64), '"');
    case Kind::array: return text("an array of ", items.size());
    default: return text("an object of ", members.size());
  }
}

Json parse_json(std::string_view source, std::string_view bytes, size_t max_bytes) {
  if (bytes.size() > max_bytes) {
    fail(UP_CORRUPT_FILE, "parse JSON", source, ": ", bytes.size(), " bytes, at most ", max_bytes, " are read");
  }
  return Parser(source, bytes).document();
}

}  // namespace up
