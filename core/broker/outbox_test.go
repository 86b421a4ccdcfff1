package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

// spool is an Outbox in memory that keeps the contract: each source once, none behind a gap.
type spool struct {
	mu      sync.Mutex
	filters []string
	taken   []string // payloads
	sources []durable.Seq
	gap     durable.Seq // the first source that was refused, 0 = none
	refuse  map[string]int
	leave   string // payloads that a rule leaves out
	full    bool
	held    bool
	urgent  bool
	waiting []func()
	calls   int
}

var errSpool = errors.New("the spool takes nothing")

func (s *spool) Name() string      { return "cloud" }
func (s *spool) Filters() []string { return s.filters }
func (s *spool) Flush()            {}

func (s *spool) Urgent() {
	s.mu.Lock()
	s.urgent = true
	s.mu.Unlock()
}

func (s *spool) Admits(int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.full
}

func (s *spool) Append(m *message.Message, source durable.Seq, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	payload := string(m.Payload)
	var err error
	if source != 0 && source <= s.gap {
		s.gap = 0
	}
	switch {
	case s.leave != "" && payload == s.leave:
	case source != 0 && s.gap != 0:
		err = errSpool
	case s.refuse[payload] > 0:
		s.refuse[payload]--
		err = errSpool
		s.gap = source
	case source != 0 && len(s.sources) > 0 && source <= s.sources[len(s.sources)-1]:
	default:
		s.taken = append(s.taken, payload)
		if source != 0 {
			s.sources = append(s.sources, source)
		}
	}
	if done == nil {
		return
	}
	if s.held {
		s.waiting = append(s.waiting, func() { done(err) })
		return
	}
	done(err)
}

func (s *spool) release() {
	s.mu.Lock()
	w := s.waiting
	s.waiting, s.held = nil, false
	s.mu.Unlock()
	for _, f := range w {
		f()
	}
}

func (s *spool) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

func withOutbox(s *spool) func(*Options) {
	return func(o *Options) { o.Outboxes = []Outbox{s} }
}

// retry does now what the outbox would do after handoverAgain.
func (x *bench) retry() {
	x.t.Helper()
	x.until("the retry", func() bool { return x.b.outboxes[0].retry.Set() && x.b.outboxes[0].moving == 0 })
	x.do(func() {
		o := x.b.outboxes[0]
		x.b.loop.Unset(&o.retry)
		o.retry.Fire(x.b.loop.Now())
	})
}

func TestPubackWaitsForTheOutbox(t *testing.T) {
	for qos := packet.QoS(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			s := &spool{filters: []string{"up/#"}, held: true}
			x := start(t, withOutbox(s))
			p, _ := x.connect(packet.V5, "p", lasting)
			p.publish("up/a", "x", qos, 1)
			p.publish("down/a", "y", qos, 2)
			if qos == 1 {
				p.nothing() // both: answers keep their order
				s.release()
				p.expect(packet.PUBACK)
				p.expect(packet.PUBACK)
			} else {
				p.expect(packet.PUBREC) // it is in the store, from where the outbox gets it
				p.expect(packet.PUBREC)
				if n := x.store.open(); n != 1 {
					t.Errorf("%d entries are left in the store, want one until the outbox has it", n)
				}
				s.release()
				x.until("done", func() bool { return x.b.outboxes[0].moving == 0 })
				if n := x.store.open(); n != 0 {
					t.Errorf("%d entries are left in the store", n)
				}
			}
			if got := s.got(); len(got) != 1 || got[0] != "x" {
				t.Errorf("the outbox got %q", got)
			}
		})
	}
}

func TestQoS0NeedsNoAnswerOfTheOutbox(t *testing.T) {
	s := &spool{filters: []string{"#"}}
	x := start(t, withOutbox(s))
	p, _ := x.connect(packet.V311, "p")
	p.publish("a", "x", 0, 0)
	p.nothing()
	if got := s.got(); len(got) != 1 {
		t.Errorf("the outbox got %q", got)
	}
}

func TestRefusalOfTheOutboxIsSaid(t *testing.T) {
	s := &spool{filters: []string{"#"}, refuse: map[string]int{"x": 1}}
	x := start(t, withOutbox(s))
	x.offline(packet.V5, "s", "a", 1)
	p, _ := x.connect(packet.V5, "p")
	p.publish("a", "x", 1, 1)
	if a := p.acked(packet.PUBACK); a.Code != packet.QuotaExceeded {
		t.Errorf("got %v", a.Code)
	}
	p.publish("a", "x", 1, 2)
	if a := p.acked(packet.PUBACK); a.Code != packet.Success {
		t.Errorf("got %v", a.Code)
	}
}

func TestWhatTheOutboxDidNotTakeComesAgainInOrder(t *testing.T) {
	s := &spool{filters: []string{"#"}, refuse: map[string]int{"3": 2}, leave: "5"}
	x := start(t, withOutbox(s))
	p, _ := x.connect(packet.V5, "p", lasting)
	const n = 8
	send := func(i int) {
		p.publish("a", fmt.Sprint(i), 2, packet.ID(i+1))
		p.expect(packet.PUBREC)
	}
	for i := range n {
		send(i)
	}
	x.retry()
	send(n) // while it is behind
	x.retry()
	x.until("everything", func() bool { return len(s.got()) == n && x.store.open() == 0 })
	if got := fmt.Sprint(s.got()); got != "[0 1 2 3 4 6 7 8]" {
		t.Errorf("got %v", got)
	}
	send(n + 1)
	x.until("one more", func() bool { return x.store.open() == 0 })
	x.do(func() {
		if o := x.b.outboxes[0]; o.behind || o.failed || o.moving != 0 {
			t.Errorf("the outbox is behind %v, failed %v, %d moving", o.behind, o.failed, o.moving)
		}
	})
}

func TestOutboxThatIsSlowLeavesMessagesInTheStore(t *testing.T) {
	s := &spool{filters: []string{"#"}, held: true}
	x := start(t, withOutbox(s))
	p, _ := x.connect(packet.V311, "p", lasting)
	const n = 2*maxHandover + 100
	for i := range n {
		p.publish("a", fmt.Sprint(i), 2, packet.ID(i%60000+1))
		p.expect(packet.PUBREC)
		p.ack(packet.PUBREL, packet.ID(i%60000+1))
		p.expect(packet.PUBCOMP)
	}
	s.mu.Lock()
	calls := s.calls
	s.mu.Unlock()
	if calls != maxHandover {
		t.Errorf("%d messages are on their way, want %d", calls, maxHandover)
	}
	s.release()
	x.until("everything", func() bool { return len(s.got()) == n })
	for i, payload := range s.got() {
		if payload != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, payload)
		}
	}
	x.until("done", func() bool { return x.store.open() == 0 })
}

func TestHandoverGoesOnAfterARestart(t *testing.T) {
	s := &spool{filters: []string{"#"}, refuse: map[string]int{"1": 1}}
	x := start(t, withOutbox(s))
	p, _ := x.connect(packet.V5, "p", lasting)
	for i := range 4 {
		p.publish("a", fmt.Sprint(i), 2, packet.ID(i+1))
		p.expect(packet.PUBREC)
	}
	x.until("the failure", func() bool { return x.b.outboxes[0].failed && x.b.outboxes[0].moving == 0 })
	restart(t, x, withOutbox(s))
	x.until("everything", func() bool { return len(s.got()) == 4 })
	if got := fmt.Sprint(s.got()); got != "[0 1 2 3]" {
		t.Errorf("got %v", got)
	}
}

func TestInjectedMessageIsAnsweredWhenItIsOnDisk(t *testing.T) {
	for qos := byte(0); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			s := &spool{filters: []string{"#"}}
			x := start(t, withOutbox(s))
			live, _ := x.connect(packet.V5, "live")
			live.subscribe("cmd/#", 2)
			x.offline(packet.V5, "s", "cmd/#", 2)
			answers := make(chan error, 10)
			inject := func() {
				x.b.Inject(&message.Message{Topic: "cmd/1", Payload: []byte("go"), QoS: qos, Source: "cloud"}, func(err error) { answers <- err })
			}
			x.store.hold()
			inject()
			x.do(func() {})
			live.message()
			if qos == 0 {
				if err := <-answers; err != nil {
					t.Fatal(err)
				}
				return // nobody keeps it
			}
			if len(answers) > 0 {
				t.Fatal("answered before the commit")
			}
			x.store.release(errDisk)
			if err := <-answers; !errors.Is(err, errDisk) {
				t.Errorf("got %v", err)
			}
			inject()
			if err := <-answers; err != nil {
				t.Error(err)
			}
			if n := x.store.open(); n != 1 {
				t.Errorf("%d entries in the store, want the one of the session", n)
			}
			if got := s.got(); len(got) != 0 {
				t.Errorf("it went up again: %q", got)
			}
		})
	}
}
