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
// The vocabulary and the merges stay in the file. One anonymous mapping holds where the tokens lie, a hash
// table over their texts, and for each token the merges that make it; there is no object per token. Immutable
// once read, so that threads may share it.
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
    // What its tables keep resident at most.
    std::size_t table_bytes() const { return AnonymousMap::resident_bytes(tables_.size()); }
    // Appends the token's bytes, of an added token the content; of an id that names no token, nothing.
    void append_bytes(std::int32_t id, std::string &out) const;
    // One more than the highest id that names a token; at most the model's vocab_size.
    std::int32_t size() const;

private:
    // Trivial, so that they live in zeroed pages.
    struct Token {
        std::uint32_t offset;  // of its text from the first vocabulary record
        std::uint32_t merge;   // one more than the rank of a merge that makes it; 0: none
    };
    struct Merge {
        std::uint32_t next;  // one more than the rank of another merge that makes the same token; 0: none
        std::uint16_t left_length;  // bytes; the token's text and this make up the merge
    };
    // In Token::merge: its text does not lead to it, as it is an added token or another's double.
    static constexpr std::uint32_t not_found = UINT32_MAX;
    struct Place {
        std::size_t slot;  // no_slot: none is near
        std::uint8_t fingerprint;
        bool taken;  // by this text
    };
    static constexpr std::size_t no_slot = SIZE_MAX;
    struct Workspace;

    Tokenizer() = default;

    void make_tables(const ByteReader &reader, std::size_t n_tokens, std::size_t n_merges);
    void read_tokens(const ByteReader &reader);
    void read_merges();
    void read_added(const ByteReader &reader, std::optional<JsonView> tokenizer_config,
                    std::int32_t vocab_size);

    std::string_view token_text(const Token &token) const;
    std::size_t split_of(std::string_view merge, const Token &token) const;
    void note_merge(Token &token, std::uint32_t rank, std::uint16_t left_length);
    const AddedToken *find_added(std::int32_t id) const;
    // The longest added token that `text` begins with.
    const AddedToken *match_added(std::string_view text) const;

    // Where a token's text is or belongs. Some bytes must be readable behind the text: see word_padding.
    Place find(std::string_view text) const;
    std::optional<std::int32_t> find_token(std::string_view text) const;
    std::optional<std::uint32_t> find_merge(const Token &product, std::size_t left_length) const;

    void encode_piece(std::string_view text, Workspace &work, std::vector<std::int32_t> &ids) const;
    void encode_word(std::string_view word, Workspace &work, std::vector<std::int32_t> &ids) const;
    void push_candidate(std::int32_t left, Workspace &work) const;

    AnonymousMap tables_;
    std::string_view section_;     // vocabulary and merges in the file
    std::uint32_t merges_at_ = 0;  // the first merge record in the section
    std::span<Token> tokens_;      // [id]
    std::span<Merge> merges_;      // [rank]
    // Open addressing with linear probing, a power of two of slots.
    std::span<std::uint32_t> slots_;         // ids
    std::span<std::uint8_t> fingerprints_;   // seven bits of the hash under a one; 0: the slot is empty
    std::vector<AddedToken> added_;          // by id
    std::vector<std::uint32_t> by_content_;  // indices into added_, by content
};

}  // namespace chatllm
