package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"dunlin/cmd/dunlin/config"
	"dunlin/core/broker"
	"dunlin/storeforward/boltfile"
)

// newBudget makes the budget that all files of the data folder share.
func newBudget(f config.Flash, logger *slog.Logger) *boltfile.Budget {
	return boltfile.NewBudget(boltfile.BudgetOptions{PerDay: f.Budget, Burst: f.Burst, MaxDelay: f.MaxDelay, Log: logger})
}

// flashValues are what the broker tells of a budget.
func flashValues(b *boltfile.Budget) []broker.Value {
	value := func(name string, n func(u boltfile.Usage) int64) broker.Value {
		return broker.Value{Name: "store/flash/" + name, Text: func() string { return strconv.FormatInt(n(b.Usage()), 10) }}
	}
	return []broker.Value{
		value("written", func(u boltfile.Usage) int64 { return u.Written }),
		value("commits", func(u boltfile.Usage) int64 { return u.Commits }),
		value("put_off", func(u boltfile.Usage) int64 { return u.PutOff }),
		value("left", func(u boltfile.Usage) int64 { return u.Left }),
	}
}

// durability turns checked rules into the broker's.
func durability(rules []config.Durability) (all []broker.DurabilityRule, err error) {
	for _, r := range rules {
		d, err := broker.ParseDurability(r.Mode)
		if err != nil {
			return nil, err
		}
		all = append(all, broker.DurabilityRule{Filter: r.Filter, Durability: d})
	}
	return all, nil
}

// relaxedValue tells which messages are acknowledged before they are on disk.
func relaxedValue(s *config.Store) broker.Value {
	text := cmp.Or(strings.Join(s.Relaxed(), " "), "none")
	return broker.Value{Name: "store/durability/relaxed", Text: func() string { return text }}
}

// flashAlarm is raised while a budget is used up.
func flashAlarm(b *boltfile.Budget, f config.Flash) broker.Alarm {
	return broker.Alarm{Name: "flash", Text: func() string {
		if !b.Usage().Over {
			return ""
		}
		return fmt.Sprintf("the flash budget of %.1f GB a day is used up, commits are put off by up to %s: publishers wait longer; "+
			"see store.flash", float64(f.Budget)/config.GB, config.FormatDuration(f.MaxDelay))
	}}
}
