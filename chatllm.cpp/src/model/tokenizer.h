#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_reader.h"
#include "base/json.h"
#include "base/memory_map.h"
#include "model/unicode.h"

namespace chatllm {

struct AddedToken {
    std::int32_t id;
    std::string content;  // UTF-8, as it stands in text
    bool special;
};

// Byte-level BPE with Qwen2's pre-tokenisation and no normalisation; the same ids as Hugging Face
// `tokenizers` gives.
//
// The vocabulary and the merges stay in the file. One anonymous mapping holds where they lie and two hash
// tables over them; there is no object per token. Immutable once read, so that threads may share it.
class Tokenizer {
public:
    // Reads from the first vocabulary record to the end of the merges. The bytes under `reader` must outlive
    // the tokenizer. `tokenizer_config` is the metadata's tokenizer_config.json. Throws Error naming file and
    // offset.
    //
    // Of a text that stands twice in the vocabulary the first id is used, of a merge that stands twice the
    // last rank. A merge whose product or sides are not in the vocabulary is never applied.
    static Tokenizer read(ByteReader &reader, std::optional<JsonView> tokenizer_config,
                          std::int32_t vocab_size);

    // Bytes that are not UTF-8 count as U+FFFD (see Utf8Stream). Bytes of which the vocabulary has no token
    // are left out.
    std::vector<std::int32_t> encode(std::string_view text) const;
    // The same, but the leftmost and then longest added tokens in the text become their ids.
    std::vector<std::int32_t> encode_with_added(std::string_view text) const;

    std::optional<std::int32_t> added_id(std::string_view content) const;
    bool is_special(std::int32_t id) const;
    // Appends the token's bytes, of an added token the content; of an id that names no token, nothing.
    void append_bytes(std::int32_t id, std::string &out) const;
    // One more than the highest id that names a token; at most the model's vocab_size.
    std::int32_t size() const;

private:
    // Trivial, so that they live in zeroed pages. Offsets count from the first vocabulary record.
    struct Token {
        std::uint32_t offset;
        std::uint16_t length;
        std::uint8_t type;
    };
    struct Merge {
        std::uint32_t offset;  // of the left side; one space stands between the sides
        std::uint16_t left_length;
        std::uint16_t right_length;
    };
    // Open addressing with linear probing; the number of slots is a power of two.
    struct Slot {
        std::uint32_t fingerprint;     // upper half of the hash
        std::uint32_t index_plus_one;  // 0: empty
    };
    struct Workspace;

    Tokenizer() = default;

    void fill_tables(const ByteReader &reader, std::size_t n_tokens, std::size_t n_merges, std::size_t end);
    void read_added(const ByteReader &reader, std::optional<JsonView> tokenizer_config,
                    std::int32_t vocab_size);

    std::string_view token_text(const Token &token) const;
    bool is_merge(const Merge &merge, std::string_view left, std::string_view right) const;
    const AddedToken *find_added(std::int32_t id) const;
    // The longest added token that `text` begins with.
    const AddedToken *match_added(std::string_view text) const;

    std::optional<std::int32_t> find_token(std::string_view text, std::uint64_t hash) const;
    std::optional<std::uint32_t> find_merge(std::string_view left, std::string_view right,
                                            std::uint64_t hash) const;

    void encode_piece(std::string_view text, Workspace &work, std::vector<std::int32_t> &ids) const;
    void encode_word(std::string_view word, Workspace &work, std::vector<std::int32_t> &ids) const;
    void push_candidate(std::int32_t left, Workspace &work) const;

    AnonymousMap tables_;
    std::string_view section_;  // vocabulary and merges in the file
    std::span<Token> tokens_;   // [id]
    std::span<Merge> merges_;   // [rank]
    std::span<Slot> token_slots_;
    std::span<Slot> merge_slots_;
    std::vector<AddedToken> added_;          // by id
    std::vector<std::uint32_t> by_content_;  // indices into added_, by content
};

}  // namespace chatllm
