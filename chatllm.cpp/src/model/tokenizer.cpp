#include "model/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <system_error>

#include "base/arena.h"
#include "base/utf8.h"

namespace chatllm {

namespace {

// Limits on what a file may hold. The longest token of the official vocabulary takes 256 bytes (128 spaces).
constexpr std::int32_t max_token_bytes = 1024;
constexpr std::int32_t max_merge_bytes = 2 * max_token_bytes + 1;
constexpr std::size_t max_added_tokens = 4096;
constexpr std::size_t max_added_bytes = 256;
// Beside the file's own size, what the tables of a hostile file may take.
constexpr std::size_t max_extra_bytes = std::size_t{16} << 20;
// Slots that are looked at together.
constexpr std::size_t window = 8;
// Tables are at most two thirds full. In one of 200,000 well-mixed entries the longest run of full slots is
// about 200; more than this comes only from a file made to collide.
constexpr std::size_t max_probes = 1024;
constexpr std::size_t max_text_bytes = std::size_t{16} << 20;

enum TokenType : std::uint8_t { type_normal = 1, type_control = 3, type_user_defined = 4 };

// ---- GPT-2's byte alphabet: each byte as a printable character, in UTF-8 of one or two bytes ----

struct ByteChar {
    std::array<char, 8> utf8;  // padded for its words
    std::uint8_t length;
};

constexpr std::size_t n_alphabet_codes = 256 + 68;  // 68 bytes are not printable in Latin-1

constexpr bool prints_as_itself(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
    std::array<ByteChar, 256> chars{};                   // [byte]
    std::array<std::int16_t, n_alphabet_codes> bytes{};  // [code point], -1: not in the alphabet

    constexpr Alphabet() {
        bytes.fill(-1);
        unsigned next_code = 256;
        for (unsigned byte = 0; byte < 256; ++byte) {
            const unsigned code = prints_as_itself(byte) ? byte : next_code++;
            bytes[code] = static_cast<std::int16_t>(byte);
            if (code < 0x80) {
                chars[byte] = {{static_cast<char>(code), 0}, 1};
            } else {
                chars[byte] = {
                    {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))}, 2};
            }
        }
    }

    // Passes the bytes that `text` spells to put(char). Returns where the first character outside the
    // alphabet stands.
    template <typename Put> constexpr std::size_t decode(std::string_view text, Put &&put) const {
        std::size_t position = 0;
        while (position < text.size()) {
            unsigned code = static_cast<unsigned char>(text[position]);
            std::size_t length = 1;
            if (code >= 0x80) {
                if (code < 0xC2 || code > 0xC5 || position + 1 == text.size()) return position;
                const unsigned second = static_cast<unsigned char>(text[position + 1]);
                if ((second & 0xC0) != 0x80) return position;
                code = ((code & 0x1F) << 6) | (second & 0x3F);
                length = 2;
            }
            if (code >= n_alphabet_codes || bytes[code] < 0) return position;
            put(static_cast<char>(bytes[code]));
            position += length;
        }
        return position;
    }
};

constexpr Alphabet alphabet;

using Bytes16 = unsigned char __attribute__((vector_size(16)));

Bytes16 load_bytes(const char *bytes) {
    Bytes16 loaded;
    std::memcpy(&loaded, bytes, sizeof(loaded));
    return loaded;
}

constexpr std::size_t spelling_padding = 15;

// Whether the alphabet spells `text`, 16 bytes at a time: no branch depends on what they are. The byte in
// front is read, and must be none that begins a character; `spelling_padding` bytes behind it must be
// readable.
bool is_spelling(std::string_view text) {
    constexpr Bytes16 place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Bytes16 wrong{};
    for (std::size_t i = 0; i < text.size(); i += sizeof(Bytes16)) {
        const Bytes16 byte = load_bytes(text.data() + i), before = load_bytes(text.data() + i - 1);
        const auto second = (byte & 0xC0) == 0x80, after_first = (before >= 0xC2) & (before <= 0xC5);
        const auto outside = (byte < 0x21) | (byte == 0x7F) | (byte == 0xC0) | (byte == 0xC1) | (byte > 0xC5);
        const auto gap = ((before == 0xC2) & ((byte < 0xA1) | (byte == 0xAD))) |  // these print as others
                         ((before == 0xC5) & (byte > 0x83));
        const auto n_left = static_cast<unsigned char>(std::min(text.size() - i, sizeof(Bytes16)));
        wrong |= reinterpret_cast<Bytes16>(((second ^ after_first) | outside | gap) & (place < n_left));
    }
    std::array<std::uint64_t, 2> halves;
    std::memcpy(&halves, &wrong, sizeof(halves));
    return (halves[0] | halves[1]) == 0 && static_cast<unsigned char>(text.back()) < 0xC2;
}

// ---- Hashing ----

constexpr std::uint64_t finish_hash(std::uint64_t hash) {  // the finaliser of MurmurHash3
    hash = (hash ^ (hash >> 33)) * 0xFF51AFD7ED558CCDu;
    hash = (hash ^ (hash >> 33)) * 0xC4CEB9FE1A85EC53u;
    return hash ^ (hash >> 33);
}

template <typename T> T load(const char *bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
}

constexpr std::uint64_t hash_factor = 0x9E3779B97F4A7C15u;

// What follows reads texts in words of 8 bytes: so many bytes of any value must be readable behind them.
constexpr std::size_t word_padding = 7;

// The first 8 bytes of a text of `n`, 0 for those that it lacks; n is not 0.
std::uint64_t load_word(const char *text, std::size_t n) {
    const auto word = load<std::uint64_t>(text);
    return n >= 8 ? word : word & (~std::uint64_t{0} >> (64 - 8 * n));
}

// `text` is not empty.
std::uint64_t hash_text(std::string_view text) {
    const char *bytes = text.data();
    std::uint64_t hash = text.size();
    std::size_t left = text.size();
    for (; left > 8; left -= 8, bytes += 8) {
        hash = (hash ^ load<std::uint64_t>(bytes)) * hash_factor;
        hash ^= hash >> 32;
    }
    return finish_hash((hash ^ load_word(bytes, left)) * hash_factor);
}

// Where two texts of `n` bytes begin to differ, or n.
std::size_t first_difference(const char *one, const char *other, std::size_t n) {
    for (std::size_t i = 0; i < n; i += 8) {
        const std::uint64_t difference = load_word(one + i, n - i) ^ load_word(other + i, n - i);
        if (difference != 0) return i + static_cast<std::size_t>(std::countr_zero(difference)) / 8;
    }
    return n;
}

std::size_t slots_for(std::size_t n_entries) {
    return std::max(window, std::bit_ceil(n_entries + n_entries / 2 + 1));
}

// ---- The records in the file ----

std::string quoted(std::string_view text) {
    std::string out(1, '"');
    out += printable(text);
    out += '"';
    return out;
}

// Walks over records without a call for each field. What is not there the reader reports.
class RecordCursor {
public:
    explicit RecordCursor(const ByteReader &reader)
        : reader_(reader), position_(reader.position()), size_(reader.size()) {
        ByteReader whole = reader;
        whole.seek(0, "file");
        bytes_ = whole.text(size_, "file").data();
    }

    std::size_t position() const { return position_; }
    std::int32_t length(std::string_view field) {
        return load<std::int32_t>(take(sizeof(std::int32_t), field));
    }
    std::uint8_t byte(std::string_view field) { return load<std::uint8_t>(take(1, field)); }
    std::string_view text(std::int32_t length, std::string_view field) {
        const auto n_bytes = static_cast<std::size_t>(length);
        return {take(n_bytes, field), n_bytes};
    }

private:
    const char *take(std::size_t n_bytes, std::string_view field) {
        if (n_bytes > size_ - position_) {
            ByteReader short_of = reader_;
            short_of.seek(position_, field);
            short_of.take(n_bytes, field);
        }
        const char *taken = bytes_ + position_;
        position_ += n_bytes;
        return taken;
    }

    const ByteReader &reader_;
    const char *bytes_;
    std::size_t position_;
    std::size_t size_;
};

void check_token(const ByteReader &reader, std::string_view text, std::size_t offset, std::uint8_t type) {
    if (type == type_normal) {
        // In front stands the length's last byte, 0.
        const bool padded = reader.size() - (offset + text.size()) >= spelling_padding;
        if (padded && is_spelling(text)) return;
        const std::size_t wrong = alphabet.decode(text, [](char) {});
        if (wrong == text.size()) return;
        reader.fail("vocabulary entry's text", offset + wrong,
                    quoted(text) + " is not written in the byte-level alphabet");
    }
    if (type != type_control && type != type_user_defined) {
        reader.fail("vocabulary entry's type", offset + text.size(),
                    "is " + std::to_string(type) +
                        ", allowed are 1 (normal), 3 (control) and 4 (user-defined)");
    }
}

// Checks the vocabulary records up to and including the terminator. Returns their number.
std::size_t check_vocabulary(const ByteReader &reader, RecordCursor &cursor, std::size_t max_tokens) {
    for (std::size_t n = 0;; ++n) {
        const std::size_t record = cursor.position();
        const std::int32_t length = cursor.length("vocabulary entry's length");
        if (length < 0) return n;
        if (n == max_tokens) {
            reader.fail("vocabulary", record,
                        "more entries than the config's vocab_size of " + std::to_string(max_tokens));
        }
        if (length == 0 || length > max_token_bytes) {
            reader.fail("vocabulary entry's length", record,
                        "token " + std::to_string(n) + " is " + std::to_string(length) +
                            " bytes long, allowed are 1 to " + std::to_string(max_token_bytes));
        }
        const std::size_t offset = cursor.position();
        const std::string_view text = cursor.text(length, "vocabulary entry's text");
        check_token(reader, text, offset, cursor.byte("vocabulary entry's type"));
    }
}

// Checks the merge records up to and including the terminator. Returns their number.
std::size_t check_merges(const ByteReader &reader, RecordCursor &cursor) {
    for (std::size_t n = 0;; ++n) {
        const std::size_t record = cursor.position();
        const std::int32_t length = cursor.length("merge's length");
        if (length < 0) return n;
        if (length > max_merge_bytes) {
            reader.fail("merge's length", record,
                        "merge " + std::to_string(n) + " is " + std::to_string(length) +
                            " bytes long, allowed are 3 to " + std::to_string(max_merge_bytes));
        }
        const std::size_t offset = cursor.position();
        const std::string_view text = cursor.text(length, "merge's text");
        const std::size_t space = text.find(' ', 1);
        if (space == std::string_view::npos || space + 1 == text.size()) {
            reader.fail("merge's text", offset,
                        "merge " + std::to_string(n) + " " + quoted(text) +
                            " is not two tokens with a space between");
        }
    }
}

std::string too_many_added() { return "more than " + std::to_string(max_added_tokens) + " added tokens"; }

bool is_utf8(std::string_view text) {
    for (std::size_t position = 0; position < text.size();) {
        const Utf8Char decoded = decode_utf8(text, position);
        if (decoded.status != Utf8Status::valid) return false;
        position += decoded.length;
    }
    return true;
}

// ---- Pre-tokenisation ----

struct TextChar {
    CharClass char_class;
    char32_t code;
    std::size_t end;  // position after it
};

// At the end of the text, a character of class other and no length.
TextChar char_at(std::string_view text, std::size_t position) {
    if (position == text.size()) return {CharClass::other, 0, position};
    const Utf8Char decoded = decode_utf8(text, position);
    return {char_class(decoded.code), decoded.code, position + decoded.length};
}

// Where the run of characters of one class that begins at `position` ends.
std::size_t run_end(std::string_view text, std::size_t position, CharClass wanted) {
    while (position < text.size()) {
        const TextChar next = char_at(text, position);
        if (next.char_class != wanted) break;
        position = next.end;
    }
    return position;
}

bool is_newline(char32_t code) { return code == '\r' || code == '\n'; }

// The end of the contraction 's 't 're 've 'm 'll 'd at `begin`, in any case, or `begin`. U+017F, the long s,
// is an s in another case, as it is to the regex engine of `tokenizers`.
std::size_t contraction_end(std::string_view text, std::size_t begin) {
    if (text[begin] != '\'') return begin;
    const auto lower = [text](std::size_t at) {
        const char c = at < text.size() ? text[at] : '\0';
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = lower(begin + 1), second = lower(begin + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
    if (text.substr(begin + 1, 2) == "\xC5\xBF") return begin + 3;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l')) {
        return begin + 3;
    }
    return begin;
}

// The end of the word at `begin`: what Qwen2's expression matches there. Its alternatives, in order:
//     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|
//     ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
std::size_t word_end(std::string_view text, std::size_t begin) {
    if (const std::size_t end = contraction_end(text, begin); end != begin) return end;

    const TextChar first = char_at(text, begin);
    if (first.char_class == CharClass::letter) return run_end(text, first.end, CharClass::letter);
    if (first.char_class == CharClass::number) return first.end;

    const TextChar second = char_at(text, first.end);
    if (!is_newline(first.code) && second.char_class == CharClass::letter) {
        return run_end(text, second.end, CharClass::letter);
    }

    const bool space_before_other =
        first.code == ' ' && first.end < text.size() && second.char_class == CharClass::other;
    if (first.char_class == CharClass::other || space_before_other) {
        std::size_t end = run_end(text, first.end, CharClass::other);
        while (end < text.size() && is_newline(static_cast<unsigned char>(text[end]))) ++end;
        return end;
    }

    // White space: up to the last newline in the run; else all of it but the last character, which belongs to
    // the word that follows, unless the run ends the text or is that one character.
    std::size_t position = begin, last_char = begin, after_newline = begin;
    while (position < text.size()) {
        const TextChar next = char_at(text, position);
        if (next.char_class != CharClass::space) break;
        last_char = position;
        position = next.end;
        if (is_newline(next.code)) after_newline = position;
    }
    if (after_newline != begin) return after_newline;
    return position == text.size() || last_char == begin ? position : last_char;
}

}  // namespace

// ---- Reading ----

Tokenizer Tokenizer::read(ByteReader &reader, std::optional<JsonView> tokenizer_config,
                          std::int32_t vocab_size) {
    if (vocab_size <= 0) reader.fail("config", "vocab_size is " + std::to_string(vocab_size));

    const std::size_t begin = reader.position();
    RecordCursor cursor(reader);
    const std::size_t n_tokens = check_vocabulary(reader, cursor, static_cast<std::size_t>(vocab_size));
    if (n_tokens == 0) reader.fail("vocabulary", begin, "is empty");
    const std::size_t n_merges = check_merges(reader, cursor);
    const std::size_t n_bytes = cursor.position() - begin;
    if (n_bytes > std::numeric_limits<std::uint32_t>::max()) {
        reader.fail("vocabulary", "vocabulary and merges take more than 4 GiB");
    }

    Tokenizer tokenizer;
    tokenizer.make_tables(reader, n_tokens, n_merges);
    tokenizer.section_ = reader.text(n_bytes, "vocabulary");
    tokenizer.read_tokens(reader);
    tokenizer.read_merges();
    tokenizer.read_added(reader, tokenizer_config, vocab_size);
    return tokenizer;
}

void Tokenizer::make_tables(const ByteReader &reader, std::size_t n_tokens, std::size_t n_merges) {
    const std::size_t n_slots = slots_for(n_tokens);
    const std::size_t n_bytes =
        n_tokens * sizeof(Token) + n_merges * sizeof(Merge) + n_slots * (sizeof(std::uint32_t) + 1) + window;
    if (n_bytes > reader.size() + max_extra_bytes) {
        reader.fail("vocabulary", std::to_string(n_tokens) + " tokens and " + std::to_string(n_merges) +
                                      " merges need tables larger than the file: the file is corrupt");
    }
    tables_ = build_arena("tokenizer", [&](ArenaCursor &cursor) {
        tokens_ = {cursor.take<Token>(n_tokens), n_tokens};
        merges_ = {cursor.take<Merge>(n_merges), n_merges};
        slots_ = {cursor.take<std::uint32_t>(n_slots), n_slots};
        fingerprints_ = {cursor.take<std::uint8_t>(n_slots + window), n_slots + window};
    });
}

// The records were checked one by one when they were counted.
void Tokenizer::read_tokens(const ByteReader &reader) {
    const std::size_t begin = reader.position() - section_.size();
    std::uint32_t offset = 0;
    for (std::uint32_t id = 0; id < tokens_.size(); ++id) {
        offset += static_cast<std::uint32_t>(sizeof(std::int32_t));
        tokens_[id] = {offset, 0};
        const std::string_view text = token_text(tokens_[id]);
        offset += static_cast<std::uint32_t>(text.size());
        const auto type = load<std::uint8_t>(section_.data() + offset++);
        if (type == type_normal) {
            if (const Place place = find(text); place.slot == no_slot) {
                reader.fail("vocabulary", begin + tokens_[id].offset,
                            "too many texts with the same hash: the file is corrupt");
            } else if (place.taken) {
                tokens_[id].merge = not_found;
            } else {
                slots_[place.slot] = id;
                fingerprints_[place.slot] = place.fingerprint;
                // The first are repeated behind the last, so that a window may reach over the end.
                if (place.slot < window) fingerprints_[slots_.size() + place.slot] = place.fingerprint;
            }
            continue;
        }
        tokens_[id].merge = not_found;
        if (text.size() > max_added_bytes || !is_utf8(text)) {
            reader.fail("vocabulary entry's text", begin + tokens_[id].offset,
                        "an added token must be UTF-8 of at most " + std::to_string(max_added_bytes) +
                            " bytes");
        }
        if (added_.size() == max_added_tokens) {
            reader.fail("vocabulary", begin + tokens_[id].offset, too_many_added());
        }
        added_.push_back({static_cast<std::int32_t>(id), std::string(text), type == type_control});
    }
    merges_at_ = offset + static_cast<std::uint32_t>(sizeof(std::int32_t));  // behind the terminator
}

void Tokenizer::read_merges() {
    std::array<char, max_token_bytes + word_padding> joined{};  // padded for its words
    std::size_t position = merges_at_;
    std::size_t product = 0;  // of the last merge
    for (std::uint32_t rank = 0; rank < merges_.size(); ++rank) {
        const auto length = static_cast<std::size_t>(load<std::int32_t>(section_.data() + position));
        const std::string_view merge = section_.substr(position + sizeof(std::int32_t), length);
        position += sizeof(std::int32_t) + length;
        // Trained vocabularies list the products in the order of the merges.
        std::size_t left_length = product + 1 < tokens_.size() ? split_of(merge, tokens_[product + 1]) : 0;
        if (left_length != 0) {
            ++product;
        } else {
            left_length = merge.find(' ', 1);
            if (length - 1 > std::size_t{max_token_bytes}) continue;
            const auto rest = std::ranges::copy(merge.substr(0, left_length), joined.begin()).out;
            std::ranges::copy(merge.substr(left_length + 1), rest);
            const std::string_view text(joined.data(), length - 1);
            const auto id = find_token(text);
            if (!id) continue;
            product = static_cast<std::size_t>(*id);
        }
        note_merge(tokens_[product], rank, static_cast<std::uint16_t>(left_length));
    }
}

// The length of the left side if `token` is the merge's product, else 0.
std::size_t Tokenizer::split_of(std::string_view merge, const Token &token) const {
    const std::string_view text = token_text(token);
    if (text.size() + 1 != merge.size() || token.merge == not_found) return 0;
    const auto end = static_cast<std::size_t>(merge.data() + merge.size() - section_.data());
    if (section_.size() - end < word_padding) return 0;
    // The token has no spaces, so the merge's first stands where they begin to differ.
    const std::size_t split = first_difference(text.data(), merge.data(), text.size());
    if (split == 0 || split == text.size() || merge[split] != ' ') return 0;
    const std::size_t n_right = text.size() - split;
    const char *right = merge.data() + split + 1;
    return first_difference(text.data() + split, right, n_right) == n_right ? split : 0;
}

void Tokenizer::note_merge(Token &token, std::uint32_t rank, std::uint16_t left_length) {
    std::uint32_t *link = &token.merge;
    while (*link != 0 && merges_[*link - 1].left_length != left_length) link = &merges_[*link - 1].next;
    // Of the same merge the last rank is used.
    merges_[rank] = {*link == 0 ? 0 : merges_[*link - 1].next, left_length};
    *link = rank + 1;
}

void Tokenizer::read_added(const ByteReader &reader, std::optional<JsonView> tokenizer_config,
                           std::int32_t vocab_size) {
    const std::size_t begin = reader.position() - section_.size();
    const auto decoder = tokenizer_config ? tokenizer_config->find("added_tokens_decoder") : std::nullopt;
    if (decoder) {
        const std::size_t n_listed = added_.size();
        decoder->for_each_member([&](JsonView key, JsonView value) {
            const std::string digits = key.as_string();
            std::int32_t id = -1;
            const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
            if (error != std::errc{} || stop != digits.data() + digits.size() || id < 0 || id >= vocab_size) {
                key.fail("added token id " + quoted(digits) + " is not a number from 0 to " +
                         std::to_string(vocab_size - 1));
            }
            const auto content_value = value.find("content");
            if (!content_value) value.fail("added token " + digits + " has no content");
            std::string content = content_value->as_string();
            if (content.empty() || content.size() > max_added_bytes) {
                content_value->fail("added token " + digits + " has a content of " +
                                    std::to_string(content.size()) + " bytes, allowed are 1 to " +
                                    std::to_string(max_added_bytes));
            }
            const auto special = value.find("special");
            const auto index = static_cast<std::size_t>(id);
            if (index < tokens_.size() && token_text(tokens_[index]) != content) {
                content_value->fail("added token " + digits + " " + quoted(content) + " is " +
                                    quoted(token_text(tokens_[index])) + " in the vocabulary");
            }
            const auto from_list = std::span(added_).first(n_listed);
            const auto listed = std::ranges::lower_bound(from_list, id, {}, &AddedToken::id);
            if (listed != from_list.end() && listed->id == id) {
                if (special) listed->special = special->as_bool();
                return;
            }
            if (added_.size() == max_added_tokens) key.fail(too_many_added());
            added_.push_back({id, std::move(content), special && special->as_bool()});
        });
    }

    std::ranges::stable_sort(added_, {}, &AddedToken::id);
    for (std::size_t i = 1; i < added_.size(); ++i) {
        if (added_[i - 1].id == added_[i].id) {
            decoder->fail("added token " + std::to_string(added_[i].id) + " stands twice");
        }
    }
    by_content_.resize(added_.size());
    for (std::size_t i = 0; i < added_.size(); ++i) by_content_[i] = static_cast<std::uint32_t>(i);
    std::ranges::sort(by_content_, {},
                      [this](std::uint32_t i) -> const std::string & { return added_[i].content; });
    for (std::size_t i = 1; i < by_content_.size(); ++i) {
        const AddedToken &one = added_[by_content_[i - 1]], &other = added_[by_content_[i]];
        if (one.content == other.content) {
            reader.fail("added tokens", begin,
                        quoted(one.content) + " has the ids " + std::to_string(one.id) + " and " +
                            std::to_string(other.id));
        }
    }
}

// ---- Looking up ----

std::string_view Tokenizer::token_text(const Token &token) const {
    const char *text = section_.data() + token.offset;
    return {text, static_cast<std::size_t>(load<std::int32_t>(text - sizeof(std::int32_t)))};
}

Tokenizer::Place Tokenizer::find(std::string_view text) const {
    constexpr std::uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    const std::uint64_t hash = hash_text(text);
    const auto fingerprint = static_cast<std::uint8_t>(hash >> 57 | 0x80);
    const std::size_t mask = slots_.size() - 1;
    const auto slot_at = [mask](std::size_t begin, std::uint64_t flags) {
        return (begin + static_cast<std::size_t>(std::countr_zero(flags)) / 8) & mask;
    };
    for (std::size_t probe = 0; probe < max_probes; probe += window) {
        const std::size_t begin = (hash + probe) & mask;
        const auto found = load<std::uint64_t>(reinterpret_cast<const char *>(&fingerprints_[begin]));
        // Flags the bytes that are equal, and some that are not: the text decides.
        const std::uint64_t difference = found ^ ones * fingerprint;
        for (std::uint64_t equal = (difference - ones) & ~difference & tops; equal != 0; equal &= equal - 1) {
            const std::size_t slot = slot_at(begin, equal);
            if (token_text(tokens_[slots_[slot]]) == text) return {slot, fingerprint, true};
        }
        if (const std::uint64_t empty = ~found & tops; empty != 0) {
            return {slot_at(begin, empty), fingerprint, false};
        }
    }
    return {no_slot, fingerprint, false};
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view text) const {
    const Place place = find(text);
    if (!place.taken) return std::nullopt;
    return static_cast<std::int32_t>(slots_[place.slot]);
}

std::optional<std::uint32_t> Tokenizer::find_merge(const Token &product, std::size_t left_length) const {
    for (std::uint32_t next = product.merge; next != 0; next = merges_[next - 1].next) {
        if (merges_[next - 1].left_length == left_length) return next - 1;
    }
    return std::nullopt;
}

const AddedToken *Tokenizer::find_added(std::int32_t id) const {
    const auto found = std::ranges::lower_bound(added_, id, {}, &AddedToken::id);
    return found != added_.end() && found->id == id ? &*found : nullptr;
}

const AddedToken *Tokenizer::match_added(std::string_view text) const {
    // Narrows the tokens, sorted by content, to those that share one more byte with the text at each step.
    const AddedToken *longest = nullptr;
    auto first = by_content_.begin(), last = by_content_.end();
    for (std::size_t length = 1; length <= std::min(text.size(), max_added_bytes); ++length) {
        const std::string_view prefix = text.substr(0, length);
        const auto prefix_of = [&](std::uint32_t i) {
            return std::string_view(added_[i].content).substr(0, length);
        };
        first = std::ranges::lower_bound(first, last, prefix, {}, prefix_of);
        last = std::ranges::upper_bound(first, last, prefix, {}, prefix_of);
        if (first == last) break;
        const AddedToken &shortest = added_[*first];
        if (shortest.content.size() == length) longest = &shortest;
    }
    return longest;
}

std::optional<std::int32_t> Tokenizer::added_id(std::string_view content) const {
    const auto content_of = [this](std::uint32_t i) -> std::string_view { return added_[i].content; };
    const auto found = std::ranges::lower_bound(by_content_, content, {}, content_of);
    if (found == by_content_.end() || content_of(*found) != content) return std::nullopt;
    return added_[*found].id;
}

bool Tokenizer::is_special(std::int32_t id) const {
    const AddedToken *added = find_added(id);
    return added != nullptr && added->special;
}

void Tokenizer::append_bytes(std::int32_t id, std::string &out) const {
    if (const AddedToken *added = find_added(id)) {
        out += added->content;
    } else if (id >= 0 && static_cast<std::size_t>(id) < tokens_.size()) {
        alphabet.decode(token_text(tokens_[static_cast<std::size_t>(id)]),
                        [&out](char byte) { out += byte; });
    }
}

std::int32_t Tokenizer::size() const {
    const auto n_tokens = static_cast<std::int32_t>(tokens_.size());
    return added_.empty() ? n_tokens : std::max(n_tokens, added_.back().id + 1);
}

// ---- Encoding ----

namespace {

// The text with U+FFFD for what is not UTF-8.
std::string whole_characters(std::string_view text) {
    if (text.size() > max_text_bytes) {
        throw Error("a text of " + std::to_string(text.size()) + " bytes is longer than the limit of " +
                    std::to_string(max_text_bytes));
    }
    Utf8Stream stream;
    std::string characters = stream.feed(text);
    characters += stream.flush();
    return characters;
}

}  // namespace

// The symbols of one word as a linked list in the word's spelling, and the merges that could be made. Reused
// from word to word.
struct Tokenizer::Workspace {
    struct Symbol {
        std::uint32_t begin, end;     // in spelling
        std::int32_t previous, next;  // -1: none
        std::int32_t id;              // -1: merged into the symbol on its left
    };
    struct Candidate {
        std::uint32_t rank;
        std::int32_t left;  // symbol
        std::uint32_t end;  // of the merged symbol
        std::int32_t id;    // of the merged symbol

        // std::push_heap keeps the greatest on top: the lowest rank, the leftmost of equal ones.
        bool operator<(const Candidate &other) const {
            return rank != other.rank ? rank > other.rank : left > other.left;
        }
    };

    std::string spelling;  // in the byte alphabet, padded for its words
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;  // a heap
};

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
    const std::string characters = whole_characters(text);
    Workspace work;
    std::vector<std::int32_t> ids;
    encode_piece(characters, work, ids);
    return ids;
}

std::vector<std::int32_t> Tokenizer::encode_with_added(std::string_view text) const {
    const std::string characters = whole_characters(text);
    Workspace work;
    std::vector<std::int32_t> ids;
    const std::string_view whole = characters;
    std::size_t begin = 0, position = 0;
    while (position < whole.size()) {
        const AddedToken *added = match_added(whole.substr(position));
        if (added == nullptr) {
            ++position;
            continue;
        }
        encode_piece(whole.substr(begin, position - begin), work, ids);
        ids.push_back(added->id);
        begin = position += added->content.size();
    }
    encode_piece(whole.substr(begin), work, ids);
    return ids;
}

void Tokenizer::encode_piece(std::string_view text, Workspace &work, std::vector<std::int32_t> &ids) const {
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = word_end(text, begin);
        encode_word(text.substr(begin, end - begin), work, ids);
        begin = end;
    }
}

void Tokenizer::encode_word(std::string_view word, Workspace &work, std::vector<std::int32_t> &ids) const {
    work.spelling.clear();
    work.symbols.clear();
    work.candidates.clear();
    for (const char byte : word) {
        const ByteChar &spelt = alphabet.chars[static_cast<unsigned char>(byte)];
        const std::string_view text(spelt.utf8.data(), spelt.length);
        const auto id = find_token(text);
        if (!id) continue;
        const auto begin = static_cast<std::uint32_t>(work.spelling.size());
        const auto index = static_cast<std::int32_t>(work.symbols.size());
        work.spelling += text;
        work.symbols.push_back({begin, begin + spelt.length, index - 1, index + 1, *id});
    }
    work.spelling.append(word_padding, '\0');
    if (work.symbols.empty()) return;
    work.symbols.back().next = -1;

    for (std::size_t i = 0; i < work.symbols.size(); ++i) push_candidate(static_cast<std::int32_t>(i), work);
    while (!work.candidates.empty()) {
        std::ranges::pop_heap(work.candidates, std::less<>{});
        const Workspace::Candidate best = work.candidates.back();
        work.candidates.pop_back();

        Workspace::Symbol &left = work.symbols[static_cast<std::size_t>(best.left)];
        if (left.id < 0 || left.next < 0) continue;
        Workspace::Symbol &right = work.symbols[static_cast<std::size_t>(left.next)];
        // Another merge changed the pair. The left symbol grows only by whole right ones, so the end tells.
        if (right.end != best.end) continue;

        left.end = right.end;
        left.next = right.next;
        left.id = best.id;
        right.id = -1;
        if (left.next >= 0) work.symbols[static_cast<std::size_t>(left.next)].previous = best.left;
        if (left.previous >= 0) push_candidate(left.previous, work);
        push_candidate(best.left, work);
    }
    for (std::int32_t i = 0; i >= 0; i = work.symbols[static_cast<std::size_t>(i)].next) {
        ids.push_back(work.symbols[static_cast<std::size_t>(i)].id);
    }
}

// Notes the merge of the symbol `left` with its right neighbour, if there is one.
void Tokenizer::push_candidate(std::int32_t left, Workspace &work) const {
    const Workspace::Symbol &first = work.symbols[static_cast<std::size_t>(left)];
    if (first.next < 0) return;
    const Workspace::Symbol &second = work.symbols[static_cast<std::size_t>(first.next)];
    const std::string_view merged(work.spelling.data() + first.begin, second.end - first.begin);
    const auto id = find_token(merged);
    if (!id) return;
    const auto rank = find_merge(tokens_[static_cast<std::size_t>(*id)], first.end - first.begin);
    if (!rank) return;
    work.candidates.push_back({*rank, left, second.end, *id});
    std::ranges::push_heap(work.candidates, std::less<>{});
}

}  // namespace chatllm
