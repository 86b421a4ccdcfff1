package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWearDecidesWhatIsNotSaidOrAuto(t *testing.T) {
	low := stores["low"]
	for _, tt := range []struct {
		name, text string
		want       func(s *Store)
	}{
		{"nothing is said", "data: x\n", func(*Store) {}},
		{"normal", "store: {wear: normal}\n", func(*Store) {}},
		{"low", "store: {wear: low}\n", func(s *Store) { *s = low }},
		{"low, and all auto", "store: {linger: auto, save_after: auto, flash: {budget: auto, burst: auto, max_delay: auto}, wear: low}\n", func(s *Store) { *s = low }},
		{"low, and some values", "store: {linger: 0, flash: {budget: 2GB}, wear: low}\n", func(s *Store) {
			*s = low
			s.Linger, s.Flash.Budget = 0, 2*GB
		}},
		{"values only", "store: {save_after: 3s, flash: {budget: 0, burst: 5MiB, max_delay: 2s}}\n", func(s *Store) {
			s.SaveAfter, s.Flash = 3*time.Second, Flash{Burst: 5 * MiB, MaxDelay: 2 * time.Second}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := Default().Store
			tt.want(&want)
			c, err := Parse("f", []byte(tt.text), Overrides{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, c.Store); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWrongStoreSettingsAreSaidInWords(t *testing.T) {
	for text, want := range map[string]string{
		"store: {wear: gentle}\n":           `"gentle" is not known; allowed: normal, low`,
		"store: {linger: 2s}\n":             "2s is out of range; allowed: 0 to 1s",
		"store: {save_after: 1}\n":          "the unit is missing",
		"store: {flash: {budget: 1MiB}}\n":  "1MiB is out of range; allowed: 100MiB to",
		"store: {flash: {max_delay: 0}}\n":  "0 is out of range; allowed: 1ms to 10s",
		"store: {flash: {buget: 1GB}}\n":    `unknown key "buget"; did you mean "budget"?`,
		"store: {flash: {burst: [1, 2]}}\n": "got a list",

		"store: {durability: [{filter: a/#}]}\n":                                                                `mode is missing; allowed: filter and mode`,
		"store: {durability: [{mode: sync}]}\n":                                                                 `filter is missing`,
		"store: {durability: [{filter: a/#, mode: fast}]}\n":                                                    `"fast" is not known; allowed: sync, batched, relaxed`,
		"store: {durability: [{filter: a#, mode: sync}]}\n":                                                     `"a#" is not a topic filter`,
		"store: {durability: [{filter: $SYS/#, mode: sync}]}\n":                                                 `nothing is published to "$SYS/#"`,
		"store: {durability: [{filter: $share/g/a, mode: sync}]}\n":                                             `nothing is published to "$share/g/a"`,
		"store: {durability: [{filter: a/#, mode: sync}, {filter: a/+/b, mode: batched}]}\n":                    `what "a/+/b" matches is decided by "a/#" (store.durability.0) already`,
		"store: {durability: [{filter: a, mode: sync}, {filter: b, mode: sync}, {filter: a, mode: batched}]}\n": `what "a" matches is decided by "a"`,
	} {
		if _, err := Parse("f", []byte(text), Overrides{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", strings.TrimSpace(text), err, want)
		}
	}
}

func TestDurabilityIsReadInOrderAndRelaxedIsWarnedOf(t *testing.T) {
	const text = "store:\n  durability:\n    - {filter: raw/x, mode: batched}\n    - {filter: raw/#, mode: relaxed}\n  wear: low\n"
	c, err := Parse("f", []byte(text), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Durability{{"raw/x", "batched"}, {"raw/#", "relaxed"}}, c.Store.Durability); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "f:4:29: store.durability.1.mode: messages to raw/# are acknowledged before they are on disk") {
		t.Errorf("warnings %q", c.Warnings)
	}
	if got := c.Store.Relaxed(); len(got) != 1 || got[0] != "raw/#" {
		t.Errorf("relaxed: %q", got)
	}
}
