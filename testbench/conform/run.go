package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"time"

	"dunlin/core/packet"
	"dunlin/testbench/process"
)

// guard bounds one check, so that a broker that hangs fails it instead of hanging the suite.
// What is not ours gets less: it may well leave a dozen checks without an answer.
const (
	guard         = time.Minute
	guardOfOthers = 20 * time.Second
)

// outcome is how a check ended.
type outcome int

const (
	passed outcome = iota
	failed
	refused   // the broker says that it does not have the feature, and refuses it as it must
	tolerated // the broker takes what a client may not send, and what a server may, but need not look at
	elsewhere // the check needs a broker that it may configure and kill
)

func (o outcome) String() string {
	return [...]string{"ok", "FAILED", "refused", "lenient", "not run"}[o]
}

// result is an outcome and what there is to say about it.
type result struct {
	outcome outcome
	detail  string
}

// target is the broker under test.
type target struct {
	address string
	// ours: it is a dunlin that the suite has started. Checks may start more of them with other
	// settings, and what the Standard recommends and we promise is asked for, too.
	ours bool
	// patience bounds a check; guard or guardOfOthers if 0.
	patience time.Duration
}

// run performs a check. A check ends early by a panic with a result.
func (g target) run(ctx context.Context, v packet.Version, c check) (r result) {
	patience := guardOfOthers
	if g.ours {
		patience = guard
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(g.patience, patience))
	defer cancel()
	t := &T{ctx: ctx, v: v, target: g, mild: failed, prefix: fmt.Sprintf("cf%06d", rand.IntN(1e6))}
	defer t.end()
	defer func() {
		switch e := recover().(type) {
		case nil:
		case result:
			r = e
		default:
			panic(e)
		}
	}()
	c(t)
	return result{}
}

// T is one run of a check. Everything a check uses at the broker carries its prefix, so that
// checks do not meet and a broker with other clients can be tested.
type T struct {
	target
	ctx    context.Context
	v      packet.Version
	prefix string
	where  string  // case of a table, for messages
	mild   outcome // of a fault that is taken: failed or tolerated

	own      *process.Process // that the check has started, nil if none
	dir      string           // of own
	peers    []*peer
	passed   int             // calls of pass
	lasting  map[string]bool // client ids whose sessions may stay
	retained map[string]bool // topics
}

// check tests one behaviour; several statements may rest on it.
type check func(t *T)

func (c check) name() string {
	full := runtime.FuncForPC(reflect.ValueOf(c).Pointer()).Name()
	return full[strings.LastIndexByte(full, '.')+1:]
}

// failf ends the check.
func (t *T) failf(format string, a ...any) {
	panic(result{failed, t.told(fmt.Sprintf(format, a...))})
}

// told is a message with the case it is about.
func (t *T) told(s string) string {
	if t.where != "" {
		return t.where + ": " + s
	}
	return s
}

func (t *T) must(err error) {
	if err != nil {
		t.failf("%v", err)
	}
}

// recommended ends a check of what the Standard only recommends, unless the broker is ours.
func (t *T) recommended() {
	if !t.ours {
		panic(result{elsewhere, "the Standard recommends it, no more"})
	}
}

// refused ends a check whose feature the broker does not have, behind the proof that it refuses it.
func (t *T) refused(what string) { panic(result{refused, what}) }

func (t *T) v5() bool { return t.v == packet.V5 }

func (t *T) id(name string) string { return t.prefix + name }

func (t *T) topic(name string) string { return t.prefix + "/" + name }

// broker starts a broker of the check's own; what follows goes there.
func (t *T) broker(settings ...string) {
	if !t.ours {
		panic(result{elsewhere, "needs a broker that the suite starts"})
	}
	var err error
	t.dir, err = os.MkdirTemp("", "dunlin-conform-")
	t.must(err)
	t.own, err = process.Dunlin(t.ctx, t.dir, process.Gateway{Settings: settings})
	t.must(err)
	t.address = t.own.Spec.Address
}

// with gives our broker settings; another is taken as it is.
func (t *T) with(settings ...string) {
	if t.ours {
		t.broker(settings...)
	}
}

// restart kills the check's own broker, as a power cut does, and starts it again.
func (t *T) restart() {
	t.must(t.own.Kill())
	t.must(t.own.Start(t.ctx))
}

// end leaves the broker as it was found.
func (t *T) end() {
	for _, p := range t.peers {
		p.Close()
	}
	if t.own != nil {
		t.own.Kill()
		os.RemoveAll(t.dir)
		return
	}
	defer func() { recover() }() // the broker has failed the check already
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	defer cancel()
	t.ctx = ctx
	for id := range t.lasting {
		p := t.dial()
		p.send(packet.AppendConnect(nil, &packet.Connect{Version: t.v, CleanStart: true, ClientID: []byte(id)}))
		p.next()
		p.Close()
	}
	if len(t.retained) > 0 {
		p := t.connect("end")
		for topic := range t.retained {
			p.publish(packet.Publish{Topic: []byte(topic), Retain: true})
		}
		p.silent()
	}
}
