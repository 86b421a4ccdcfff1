package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"dunlin/core/access"
	"dunlin/core/durable"
	"dunlin/core/topic"
)

// Ledger tells what has become of what queues took: a Store that keeps accounts is one. It may be
// asked from any goroutine.
type Ledger interface {
	// Total is the account over all queues, those of ended sessions included.
	Total() durable.Account
	// Account is that of the queue of one session; false if there is no such session.
	Account(n durable.SessionNumber) (durable.Account, bool)
	// Unexplained is how many entries the last walk over the records could not account for.
	Unexplained() uint64
}

// An Outbox that also is an accountant has an account of its own.
type accountant interface{ Account() durable.Account }

// SessionState is a session as of one moment.
type SessionState struct {
	ClientID  string
	Identity  access.Identity       // who made it
	Number    durable.SessionNumber // 0 = it ends with its connection
	Uplink    string                // of this name, which takes QoS 2 from its queue; "" = a client's
	Connected bool
	Pending   int   // messages in its queue
	Bytes     int64 // of their topics, properties and payloads
}

// Sessions returns all sessions as of one moment, in the order of their client identifiers, those
// of uplinks last. The loop is held up meanwhile, for about a millisecond for 10,000 of them.
func (b *Broker) Sessions(ctx context.Context) ([]SessionState, error) {
	out := make(chan []SessionState, 1)
	if err := b.onLoop(ctx, func() {
		all := make([]SessionState, 0, len(b.members)+len(b.outboxes))
		for _, m := range b.members {
			s := SessionState{ClientID: m.clientID, Identity: m.identity(), Connected: m.online()}
			if m.state.Durable() {
				s.Number = m.state.Number()
				s.Pending, s.Bytes = b.store.Queued(s.Number)
			} else {
				s.Pending, s.Bytes = m.state.Pending(), int64(m.state.QueuedBytes())
			}
			all = append(all, s)
		}
		for _, o := range b.outboxes {
			n, bytes := b.store.Queued(o.number)
			all = append(all, SessionState{Uplink: o.Name(), Number: o.number, Connected: true, Pending: n, Bytes: bytes})
		}
		out <- all
	}); err != nil {
		return nil, err
	}
	all := <-out
	slices.SortFunc(all, func(x, y SessionState) int {
		return cmp.Or(cmp.Compare(x.Uplink, y.Uplink), cmp.Compare(x.ClientID, y.ClientID))
	})
	return all, nil
}

// The accounts of queues, below $SYS/broker: each is one value, as JSON.
const (
	sysLedger         = sysBroker + "ledger/"
	sysSessionAccount = sysLedger + "session/" // and the client identifier, as one level
	sysUplinkAccount  = sysLedger + "uplink/"  // and the name
)

// maxSysAccounts bounds the accounts of sessions below $SYS, which are in memory while somebody
// subscribes to them. The console has all of them.
const maxSysAccounts = 1000

// matchesAccount says whether a Topic Filter can match the account of a session.
func matchesAccount(filter string) bool {
	id := "x"
	if levels := strings.Split(filter, "/"); len(levels) > 4 && levels[4] != "+" && levels[4] != "#" {
		id = levels[4]
	}
	return topic.Matches(filter, sysSessionAccount+id)
}

// ledgerTree is what the ledger has below $SYS whatever sessions there are.
func (s *sys) ledgerTree(add func(name string, value func() string)) {
	if s.ledger == nil {
		return
	}
	count := func(name string, of func(a *durable.Account) uint64) {
		add(name, func() string { return strconv.FormatUint(of(&s.total), 10) })
	}
	count("ledger/accepted", func(a *durable.Account) uint64 { return a.Accepted })
	count("ledger/delivered", func(a *durable.Account) uint64 { return a.Delivered })
	count("ledger/expired", func(a *durable.Account) uint64 { return a.Expired })
	count("ledger/moved", func(a *durable.Account) uint64 { return a.Moved })
	count("ledger/dead", func(a *durable.Account) uint64 { return a.Dead })
	count("ledger/pending", func(a *durable.Account) uint64 { return a.Pending })
	total := s.ledger.Total()
	for _, why := range slices.Sorted(maps.Keys(total.Dropped)) {
		count("ledger/dropped/"+why, func(a *durable.Account) uint64 { return a.Dropped[why] })
	}
	add("ledger/mismatch", func() string { return strconv.FormatInt(s.mismatch(), 10) })
	for _, o := range s.b.outboxes {
		if x, ok := o.Outbox.(accountant); ok {
			add(strings.TrimPrefix(sysUplinkAccount, sysBroker)+topicLevel(o.Name()), func() string { return accountJSON(x.Account()) })
		}
	}
}

// mismatch is by how much the account of all queues does not add up, and what the last walk over the
// records has not found. It is in the log as well when it changes.
func (s *sys) mismatch() int64 {
	off := s.total.Mismatch()
	if off == 0 {
		off = int64(s.ledger.Unexplained())
	}
	if off != s.off {
		s.off = off
		if off != 0 {
			s.b.log.Error("the ledger does not add up", "entries", off, "accepted", s.total.Accepted, "pending", s.total.Pending)
		}
	}
	return off
}

// accounts brings the accounts of sessions up to date, while somebody subscribes to one.
func (s *sys) accounts() {
	if s.ledger == nil {
		return
	}
	s.total = s.ledger.Total()
	before := make(map[string]sysValue, len(s.values)-s.fixed)
	for _, v := range s.values[s.fixed:] {
		before[v.topic] = v
	}
	s.values = s.values[:s.fixed]
	s.accounted = s.accountFilters > 0
	if s.accountFilters > 0 {
		for _, m := range s.b.members {
			if !m.state.Durable() || len(s.values)-s.fixed == maxSysAccounts {
				continue
			}
			name, number := sysSessionAccount+topicLevel(m.clientID), m.state.Number()
			v, known := before[name]
			delete(before, name)
			if !known {
				v.topic = name
			}
			v.value = func() string {
				a, _ := s.ledger.Account(number)
				return accountJSON(a)
			}
			s.values = append(s.values, v)
		}
	}
	for name := range before {
		s.retained.Delete(name)
	}
}

// accountJSON is an account as the value of a topic.
func accountJSON(a durable.Account) string {
	text, err := json.Marshal(struct {
		durable.Account
		Mismatch int64 `json:"mismatch"`
	}{a, a.Mismatch()})
	if err != nil {
		panic("broker: internal error: account: " + err.Error()) // numbers always are JSON
	}
	return string(text)
}
