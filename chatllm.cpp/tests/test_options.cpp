#include "options.h"

#include <string>
#include <vector>

#include "check.h"

using chatllm::language_name;
using chatllm::Options;
using chatllm::Piece;
using chatllm::split_input;

namespace {

using Words = std::vector<std::string>;

Options parse(Words words) {
    words.insert(words.begin(), {"-m", "model.bin"});
    return Options::parse(words);
}

}  // namespace

TEST(defaults) {
    const Options options = parse({});
    CHECK_EQ(options.model_path, "model.bin");
    CHECK_EQ(options.n_threads, 0);
    CHECK_EQ(options.max_length, 0);
    CHECK_EQ(options.max_new_tokens, 512);
    CHECK_EQ(options.temperature, 0.0);
    CHECK_EQ(options.language, "");
    CHECK(!options.whole_clip_attention);
    CHECK(!options.preload);
    CHECK(!options.lock);
    CHECK_EQ(options.tag_open, "{{");
    CHECK_EQ(options.tag_close, "}}");
}

TEST(every_option) {
    const Options options = parse({"-n",
                                   "3",
                                   "-l",
                                   "100",
                                   "-s",
                                   "names: Ada",
                                   "--temp",
                                   "0.5",
                                   "--seed",
                                   "18446744073709551615",
                                   "--max_new_tokens",
                                   "-1",
                                   "--format",
                                   "chat",
                                   "--set",
                                   "language",
                                   "zh",
                                   "--set",
                                   "encoder_window",
                                   "full",
                                   "--multimedia_file_tags",
                                   "<<",
                                   ">>",
                                   "--preload",
                                   "--lock",
                                   "--hide_banner",
                                   "-i",
                                   "--log_level",
                                   "4"});
    CHECK_EQ(options.n_threads, 3);
    CHECK_EQ(options.max_length, 100);
    CHECK_EQ(options.system_prompt, "names: Ada");
    CHECK_EQ(options.temperature, 0.5);
    CHECK_EQ(options.seed, UINT64_MAX);
    CHECK_EQ(options.max_new_tokens, -1);
    CHECK_EQ(options.language, "zh");
    CHECK(options.whole_clip_attention);
    CHECK(options.preload);
    CHECK(options.lock);
    CHECK_EQ(options.tag_open, "<<");
    CHECK_EQ(options.tag_close, ">>");
}

TEST(dashes_and_underscores_mean_the_same_in_names_only) {
    CHECK_EQ(parse({"--max-new-tokens", "7"}).max_new_tokens, 7);
    CHECK_EQ(parse({"--max_new-tokens", "7"}).max_new_tokens, 7);
    CHECK_EQ(parse({"-s", "a_b-c"}).system_prompt, "a_b-c");
    CHECK_EQ(Options::parse({"-m", "my_model-1.bin"}).model_path, "my_model-1.bin");
}

TEST(the_smaller_of_the_context_limits_counts) {
    CHECK_EQ(parse({"-l", "100", "-c", "50"}).max_length, 50);
    CHECK_EQ(parse({"-c", "50", "-l", "100"}).max_length, 50);
}

TEST(wrong_words_are_named) {
    CHECK_THROWS(Options::parse({}), "option -m: no model file is named");
    CHECK_THROWS(Options::parse({"-m"}), "option -m: a value is missing");
    CHECK_THROWS(parse({"--turbo"}), "option --turbo is unknown");
    CHECK_THROWS(parse({"stray"}), "option stray is unknown");
    CHECK_THROWS(parse({""}), "is unknown");
    CHECK_THROWS(parse({"\x1b[2J\n"}), "option \\x1b[2J\\x0a is unknown");
    for (const char *wrong : {"0", "-1", "1025", "", "2x", "x", "1.5", " 2", "99999999999999999999"}) {
        CHECK_THROWS(parse({"-n", wrong}), "is not a whole number from 1 to 1024");
    }
    CHECK_THROWS(parse({"-l", "0"}), "option -l: '0' is not a whole number from 1");
    CHECK_THROWS(parse({"--max_new_tokens", "-2"}), "option --max_new_tokens: '-2'");
    for (const char *wrong : {"-1", "nan", "inf", "", "hot", "101"}) {
        CHECK_THROWS(parse({"--temp", wrong}), "is not a number from 0 to 100");
    }
    CHECK_THROWS(parse({"--seed", "-1"}), "option --seed");
    CHECK_THROWS(parse({"--format", "completion"}), "is not chat");
    CHECK_THROWS(parse({"--set", "colour", "red"}), "unknown key 'colour'");
    CHECK_THROWS(parse({"--set", "language"}), "option --set: a value is missing");
    CHECK_THROWS(parse({"--set", "encoder_window", "half"}), "'half' is neither windowed nor full");
    CHECK_THROWS(parse({"--multimedia_file_tags", "", "}}"}), "a tag is empty");
    CHECK_THROWS(parse({"--log_level", "6"}), "option --log_level");
}

TEST(an_input_is_split_at_its_tags) {
    const Options options;
    const auto pieces = split_input("listen: {{audio:/a b.wav}} \n", options);
    CHECK_EQ(pieces.size(), 2u);
    CHECK_EQ(pieces[0].kind, Piece::Kind::text);
    CHECK_EQ(pieces[0].content, "listen: ");
    CHECK_EQ(pieces[1].kind, Piece::Kind::audio_path);
    CHECK_EQ(pieces[1].content, "/a b.wav");
    CHECK_EQ(split_input("", options).size(), 0u);
    CHECK_EQ(split_input("no clip", options).size(), 1u);
    CHECK_EQ(split_input("{{audio:a}}{{audio:b}}", options).size(), 2u);
    CHECK_EQ(split_input("{{audio:}}", options)[0].content, "");
    CHECK_THROWS(split_input("{{audio:/a.wav", options), "'{{' is not closed by '}}'");
    CHECK_THROWS(split_input("{{video:/a.mp4}}", options), "'video:/a.mp4' is not audio:PATH");
    Options others;
    others.tag_open = others.tag_close = "|";
    CHECK_EQ(split_input("|audio:{{x}}|", others)[0].content, "{{x}}");
}

TEST(languages_by_name_and_code) {
    CHECK_EQ(language_name("", {}), "");
    CHECK_EQ(language_name("AUTO", {}), "");
    CHECK_EQ(language_name("zh", {}), "Chinese");
    CHECK_EQ(language_name("EN", {}), "English");
    CHECK_EQ(language_name("japanese", {}), "Japanese");
    CHECK_EQ(language_name("english", {"Klingon", "English"}), "English");
    CHECK_EQ(language_name("Klingon", {"Klingon"}), "Klingon");
    CHECK_THROWS(language_name("Klingon", {}),
                 "language 'Klingon' is unknown to the model (known: Chinese, English");
    CHECK_THROWS(language_name("de", {"English"}), "(known: English)");
}

// The names come from the file: what they say must not break out of the line.
TEST(names_of_languages_are_made_safe_to_print) {
    CHECK_THROWS(language_name("de", {"Eng\nlish\x1b[2J"}), "(known: Eng\\x0alish\\x1b[2J)");
}
