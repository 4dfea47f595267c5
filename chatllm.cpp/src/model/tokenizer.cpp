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
// Tables are at most two thirds full. In one of 200,000 well-mixed entries the longest run of full slots is
// about 200; more than this comes only from a file made to collide.
constexpr std::size_t max_probes = 1024;
constexpr std::size_t max_text_bytes = std::size_t{16} << 20;

enum TokenType : std::uint8_t { type_normal = 1, type_control = 3, type_user_defined = 4 };

// ---- GPT-2's byte alphabet: each byte as a printable character, in UTF-8 of one or two bytes ----

struct ByteChar {
    std::array<char, 2> utf8;
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

// `text` is not empty. The last chunk may overlap the one before it, which is quicker than a copy of odd
// length.
std::uint64_t hash_text(std::string_view text) {
    const char *bytes = text.data();
    const std::size_t n = text.size();
    std::uint64_t hash = n, last;
    if (n >= 8) {
        for (std::size_t i = 0; i + 8 < n; i += 8) {
            hash = (hash ^ load<std::uint64_t>(bytes + i)) * hash_factor;
            hash ^= hash >> 32;
        }
        last = load<std::uint64_t>(bytes + n - 8);
    } else if (n >= 4) {
        last = load<std::uint32_t>(bytes) | std::uint64_t{load<std::uint32_t>(bytes + n - 4)} << 32;
    } else {
        last = load<std::uint8_t>(bytes) | std::uint64_t{load<std::uint8_t>(bytes + n / 2)} << 8 |
               std::uint64_t{load<std::uint8_t>(bytes + n - 1)} << 16;
    }
    return finish_hash((hash ^ last) * hash_factor);
}

constexpr std::uint64_t hash_pair(std::uint64_t left, std::uint64_t right) {
    return finish_hash(left * hash_factor + right);
}

// The slot of the entry that `matches(index)`, or the empty one where it belongs; null when neither is near.
template <typename Slots, typename Matches>
auto *find_slot(Slots slots, std::uint64_t hash, Matches &&matches) {
    const auto fingerprint = static_cast<std::uint32_t>(hash >> 32);
    for (std::size_t probe = 0; probe < max_probes; ++probe) {
        auto &slot = slots[(hash + probe) & (slots.size() - 1)];
        if (slot.index_plus_one == 0) return &slot;
        if (slot.fingerprint == fingerprint && matches(slot.index_plus_one - 1)) return &slot;
    }
    return static_cast<decltype(&slots[0])>(nullptr);
}

std::size_t slots_for(std::size_t n_entries) { return std::bit_ceil(n_entries + n_entries / 2 + 1); }

// ---- The records in the file ----

std::string quoted(std::string_view text) {
    std::string out(1, '"');
    out += printable(text);
    out += '"';
    return out;
}

void check_token(const ByteReader &reader, std::string_view text, std::size_t offset, std::uint8_t type) {
    if (type == type_normal) {
        const std::size_t wrong = alphabet.decode(text, [](char) {});
        if (wrong != text.size()) {
            reader.fail("vocabulary entry's text", offset + wrong,
                        quoted(text) + " is not written in the byte-level alphabet");
        }
    } else if (type != type_control && type != type_user_defined) {
        reader.fail("vocabulary entry's type", offset + text.size(),
                    "is " + std::to_string(type) +
                        ", allowed are 1 (normal), 3 (control) and 4 (user-defined)");
    }
}

// Checks the vocabulary records up to and including the terminator. Returns their number.
std::size_t check_vocabulary(ByteReader &reader, std::size_t max_tokens) {
    for (std::size_t n = 0;; ++n) {
        const std::size_t record = reader.position();
        const std::int32_t length = reader.i32("vocabulary entry's length");
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
        const std::size_t offset = reader.position();
        const std::string_view text =
            reader.text(static_cast<std::size_t>(length), "vocabulary entry's text");
        check_token(reader, text, offset, reader.u8("vocabulary entry's type"));
    }
}

// Checks the merge records up to and including the terminator. Returns their number.
std::size_t check_merges(ByteReader &reader) {
    for (std::size_t n = 0;; ++n) {
        const std::size_t record = reader.position();
        const std::int32_t length = reader.i32("merge's length");
        if (length < 0) return n;
        if (length > max_merge_bytes) {
            reader.fail("merge's length", record,
                        "merge " + std::to_string(n) + " is " + std::to_string(length) +
                            " bytes long, allowed are 3 to " + std::to_string(max_merge_bytes));
        }
        const std::size_t offset = reader.position();
        const std::string_view text = reader.text(static_cast<std::size_t>(length), "merge's text");
        const std::size_t space = text.find(' ', 1);
        if (space == std::string_view::npos || space + 1 == text.size()) {
            reader.fail("merge's text", offset,
                        "merge " + std::to_string(n) + " " + quoted(text) +
                            " is not two tokens with a space between");
        }
    }
}

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

    ByteReader walk = reader;
    const std::size_t n_tokens = check_vocabulary(walk, static_cast<std::size_t>(vocab_size));
    if (n_tokens == 0) reader.fail("vocabulary", "is empty");
    const std::size_t n_merges = check_merges(walk);
    if (walk.position() - reader.position() > std::numeric_limits<std::uint32_t>::max()) {
        reader.fail("vocabulary", "vocabulary and merges take more than 4 GiB");
    }

    Tokenizer tokenizer;
    tokenizer.fill_tables(reader, n_tokens, n_merges, walk.position());
    reader = walk;
    tokenizer.read_added(reader, tokenizer_config, vocab_size);
    return tokenizer;
}

void Tokenizer::fill_tables(const ByteReader &reader, std::size_t n_tokens, std::size_t n_merges,
                            std::size_t end) {
    const std::size_t begin = reader.position();
    const std::size_t n_token_slots = slots_for(n_tokens), n_merge_slots = slots_for(n_merges);
    const std::size_t n_bytes =
        n_tokens * sizeof(Token) + n_merges * sizeof(Merge) + (n_token_slots + n_merge_slots) * sizeof(Slot);
    if (n_bytes > reader.size() + max_extra_bytes) {
        reader.fail("vocabulary", std::to_string(n_tokens) + " tokens and " + std::to_string(n_merges) +
                                      " merges need tables larger than the file: the file is corrupt");
    }
    tables_ = build_arena("tokenizer", [&](ArenaCursor &cursor) {
        tokens_ = {cursor.take<Token>(n_tokens), n_tokens};
        merges_ = {cursor.take<Merge>(n_merges), n_merges};
        token_slots_ = {cursor.take<Slot>(n_token_slots), n_token_slots};
        merge_slots_ = {cursor.take<Slot>(n_merge_slots), n_merge_slots};
    });

    ByteReader section = reader;
    section_ = section.text(end - begin, "vocabulary");
    const auto crowded = [&](std::size_t offset) {
        reader.fail("vocabulary", begin + offset, "too many texts with the same hash: the file is corrupt");
    };

    // The records were checked one by one when they were counted.
    std::size_t position = 0;
    const auto next_text = [&] {
        const auto length = static_cast<std::uint32_t>(load<std::int32_t>(section_.data() + position));
        position += sizeof(std::int32_t);
        const std::string_view text = section_.substr(position, length);
        position += text.size();
        return text;
    };
    for (std::uint32_t id = 0; id < n_tokens; ++id) {
        const std::string_view text = next_text();
        const auto offset = static_cast<std::uint32_t>(position - text.size());
        const std::uint8_t type = load<std::uint8_t>(section_.data() + position++);
        tokens_[id] = {offset, static_cast<std::uint16_t>(text.size()), type};
        if (type != type_normal) continue;
        const std::uint64_t hash = hash_text(text);
        Slot *slot =
            find_slot(token_slots_, hash, [&](std::uint32_t i) { return token_text(tokens_[i]) == text; });
        if (slot == nullptr) crowded(offset);
        if (slot->index_plus_one == 0) *slot = {static_cast<std::uint32_t>(hash >> 32), id + 1};
    }
    position += sizeof(std::int32_t);  // the terminator
    for (std::uint32_t rank = 0; rank < n_merges; ++rank) {
        const std::string_view text = next_text();
        const std::size_t space = text.find(' ', 1);
        const std::string_view left = text.substr(0, space), right = text.substr(space + 1);
        const auto offset = static_cast<std::uint32_t>(position - text.size());
        merges_[rank] = {offset, static_cast<std::uint16_t>(left.size()),
                         static_cast<std::uint16_t>(right.size())};
        const std::uint64_t hash = hash_pair(hash_text(left), hash_text(right));
        Slot *slot =
            find_slot(merge_slots_, hash, [&](std::uint32_t i) { return is_merge(merges_[i], left, right); });
        if (slot == nullptr) crowded(offset);
        *slot = {static_cast<std::uint32_t>(hash >> 32), rank + 1};
    }
}

void Tokenizer::read_added(const ByteReader &reader, std::optional<JsonView> tokenizer_config,
                           std::int32_t vocab_size) {
    const auto full = [this] { return added_.size() == max_added_tokens; };
    const std::string too_many = "more than " + std::to_string(max_added_tokens) + " added tokens";

    const std::size_t begin = reader.position() - section_.size();
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
        const Token &token = tokens_[id];
        if (token.type == type_normal) continue;
        const std::string_view text = token_text(token);
        if (text.size() > max_added_bytes || !is_utf8(text)) {
            reader.fail("vocabulary entry's text", begin + token.offset,
                        "an added token must be UTF-8 of at most " + std::to_string(max_added_bytes) +
                            " bytes");
        }
        if (full()) reader.fail("vocabulary", begin + token.offset, too_many);
        added_.push_back({static_cast<std::int32_t>(id), std::string(text), token.type == type_control});
    }

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
            if (full()) key.fail(too_many);
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
    return section_.substr(token.offset, token.length);
}

bool Tokenizer::is_merge(const Merge &merge, std::string_view left, std::string_view right) const {
    return section_.substr(merge.offset, merge.left_length) == left &&
           section_.substr(std::size_t{merge.offset} + merge.left_length + 1, merge.right_length) == right;
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view text, std::uint64_t hash) const {
    const Slot *slot =
        find_slot(token_slots_, hash, [&](std::uint32_t i) { return token_text(tokens_[i]) == text; });
    if (slot == nullptr || slot->index_plus_one == 0) return std::nullopt;
    return static_cast<std::int32_t>(slot->index_plus_one - 1);
}

std::optional<std::uint32_t> Tokenizer::find_merge(std::string_view left, std::string_view right,
                                                   std::uint64_t hash) const {
    const Slot *slot =
        find_slot(merge_slots_, hash, [&](std::uint32_t i) { return is_merge(merges_[i], left, right); });
    if (slot == nullptr || slot->index_plus_one == 0) return std::nullopt;
    return slot->index_plus_one - 1;
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
        std::uint64_t hash;           // of its text

        std::string_view text(std::string_view spelling) const { return spelling.substr(begin, end - begin); }
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

    std::string spelling;  // in the byte alphabet
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
        const std::uint64_t hash = hash_text(text);
        const auto id = find_token(text, hash);
        if (!id) continue;
        const auto begin = static_cast<std::uint32_t>(work.spelling.size());
        const auto index = static_cast<std::int32_t>(work.symbols.size());
        work.spelling += text;
        work.symbols.push_back({begin, begin + spelt.length, index - 1, index + 1, *id, hash});
    }
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
        left.hash = hash_text(left.text(work.spelling));
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
    const std::string_view spelling = work.spelling;
    const auto rank =
        find_merge(first.text(spelling), second.text(spelling), hash_pair(first.hash, second.hash));
    if (!rank) return;
    const std::string_view merged = spelling.substr(first.begin, second.end - first.begin);
    const auto id = find_token(merged, hash_text(merged));
    if (!id) return;
    work.candidates.push_back({*rank, left, second.end, *id});
    std::ranges::push_heap(work.candidates, std::less<>{});
}

}  // namespace chatllm
