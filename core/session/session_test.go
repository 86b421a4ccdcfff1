package session

import (
	"testing"

	"dunlin/core/durable"
	"dunlin/core/message"
	"dunlin/core/packet"
)

func TestIdentifiersGoAroundWithoutThoseInUse(t *testing.T) { // [MQTT-2.2.1-4]
	s := New(0, &Limits{Window: 10, MaxQueued: 100})
	s.Connect(65535)
	held := map[packet.ID]bool{}
	for i := range 3 * 65535 {
		o, id := s.Offer(true)
		if o != SendNow || id == 0 || held[id] {
			t.Fatalf("message %d: got %v with identifier %d", i, o, id)
		}
		s.Sending(1, id)
		if i < 5 { // these are never acknowledged
			held[id] = true
			continue
		}
		if _, ok := s.Puback(id); !ok {
			t.Fatalf("identifier %d is not in flight", id)
		}
	}
}

func TestClientThatNeverCompletesGetsNothingMore(t *testing.T) {
	s := New(1, &Limits{Window: 4, MaxQueued: 1000})
	sent := 0
	var seq durable.Seq
	for range 10 {
		s.Connect(65535)
		for {
			o, id := s.Offer(true)
			if o != SendNow {
				break
			}
			seq++
			sent++
			s.Took(seq, 2, id)
			s.Committed(id, seq)
			if _, next := s.Pubrec(id, false); next != CommitReceived {
				t.Fatalf("PUBREC %d: got %v", id, next)
			}
			s.ReceivedCommitted(id)
		}
		s.Disconnect()
	}
	if sent != 8 || s.InFlight() != 8 {
		t.Errorf("%d messages were sent, %d identifiers are in use; want twice the window", sent, s.InFlight())
	}
	s.Connect(65535)
	s.Pubcomp(1)
	if o, id := s.Offer(true); o != SendNow || id == 1 || id == 0 {
		t.Errorf("after a PUBCOMP: got %v with identifier %d", o, id)
	}
}

func TestPubrelBeforePubrecIsNoted(t *testing.T) {
	s := New(1, &Limits{Window: 4, MaxQueued: 10})
	s.Connect(65535)
	s.Arrive(5)
	if next := s.Pubrel(5); next != Early {
		t.Errorf("got %v, want Early", next)
	}
	s.Accepted(5)
	if next := s.Pubrel(5); next != CommitRelease {
		t.Errorf("got %v, want CommitRelease", next)
	}
}

func TestPubcompAnswersThePubrelOfItsOwnConnection(t *testing.T) {
	for _, tt := range []struct {
		name     string
		repeated bool
	}{{"the client has not repeated its PUBREL yet", false}, {"it has", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(1, &Limits{Window: 4, MaxQueued: 10})
			s.Connect(65535)
			s.Arrive(5)
			s.Accepted(5)
			s.Pubrel(5)
			s.Disconnect()
			s.Connect(65535)
			if tt.repeated {
				if next := s.Pubrel(5); next != Nothing {
					t.Fatalf("got %v", next)
				}
			}
			if got := s.Released(5); got != tt.repeated {
				t.Errorf("PUBCOMP sent: %v", got)
			}
			if next := s.Pubrel(5); next != UnknownID {
				t.Errorf("a later PUBREL: got %v", next)
			}
		})
	}
}

func TestWhatTheStoreHasLostIsNotWaitedFor(t *testing.T) {
	s := New(1, &Limits{Window: 4, MaxQueued: 10})
	s.Connect(65535)
	for seq := durable.Seq(1); seq <= 6; seq++ {
		_, id := s.Offer(true)
		s.Took(seq, 1, id) // four in flight, two wait
	}
	s.Disconnect()
	s.Connect(65535)
	after, _, ok := s.NextRead()
	if !ok || after != 0 {
		t.Fatalf("read behind %d, %v", after, ok)
	}
	id, what := s.Entry(&durable.Entry{Seq: 2, QoS: 1}) // the others are damaged
	if what != Resend {
		t.Fatalf("got %v", what)
	}
	s.EndRead(6, false, true)
	if s.Pending() != 1 || s.InFlight() != 1 {
		t.Errorf("%d pending, %d in flight, want one", s.Pending(), s.InFlight())
	}
	s.Puback(id)
	if s.Pending() != 0 {
		t.Errorf("%d pending", s.Pending())
	}
	if o, _ := s.Offer(true); o != SendNow {
		t.Errorf("got %v: the session is not live again", o)
	}
}

func TestQueueInMemoryIsBoundedInBytes(t *testing.T) {
	s := New(0, &Limits{Window: 1, MaxQueued: 1000, MaxBytes: 10_000})
	s.Connect(1)
	_, id := s.Offer(true)
	s.Sending(1, id)
	n := 0
	for {
		o, _ := s.Offer(true)
		if o == Refuse {
			break
		}
		s.Enqueue(Queued{Message: &message.Message{Topic: "t", Payload: make([]byte, 3000)}, QoS: 1})
		n++
	}
	if n != 4 {
		t.Errorf("%d messages of 3000 bytes wait, want 4", n)
	}
	if q, ok := s.DropOldest(); !ok || q.Message.Topic != "t" || s.QueuedBytes() != 3*3001 {
		t.Errorf("dropped %v, and %d bytes wait", ok, s.QueuedBytes())
	}
	if o, _ := s.Offer(true); o != Wait {
		t.Errorf("got %v after the oldest was dropped", o)
	}
	n--
	for n > 0 {
		s.Puback(id)
		var ok bool
		if _, id, ok = s.Dequeue(); !ok {
			t.Fatal("nothing waits")
		}
		s.Sending(1, id)
		n--
	}
	if o, _ := s.Offer(true); o != Wait || s.waiting != nil {
		t.Errorf("got %v with %+v", o, s.waiting)
	}
}

func TestWhatIsTakenForAnotherSessionIsGoneUntilItReturns(t *testing.T) {
	s := New(1, &Limits{Window: 3})
	s.Connect(10)
	for seq, qos := range []packet.QoS{1, 2} {
		_, id := s.Offer(true)
		s.Took(durable.Seq(seq+1), qos, id)
	}
	s.Took(3, 1, 0) // waits
	if s.Take(1) {
		t.Error("a message was taken from a session that has a connection")
	}
	s.Disconnect()
	if !s.Take(1) || s.Take(2) || !s.Take(3) { // [MQTT-4.8.2-4]
		t.Error("QoS 1 and what waits can be taken, QoS 2 that has an identifier cannot")
	}
	if s.Pending() != 1 || s.InFlight() != 1 {
		t.Errorf("%d pending, %d in flight; want the one at QoS 2", s.Pending(), s.InFlight())
	}
	s.Returned(1)
	s.Connect(10)
	if after, _, ok := s.NextRead(); !ok || after != 0 || s.Pending() != 2 {
		t.Errorf("reads behind %d (%v) with %d pending; want behind 0, and 2", after, ok, s.Pending())
	}
}

func TestWhatReturnsIsSentThoughWhatCameBehindItWasDropped(t *testing.T) {
	s := New(1, &Limits{Window: 3})
	for seq := range durable.Seq(3) {
		s.Took(seq+1, 1, 0)
	}
	if !s.Take(1) {
		t.Fatal("it was not taken")
	}
	s.Dropped(1, 2)
	s.Returned(1)
	s.Connect(10)
	if after, _, ok := s.NextRead(); !ok || after != 0 {
		t.Fatalf("reads behind %d (%v), want behind 0", after, ok)
	}
	for _, seq := range []durable.Seq{1, 3} {
		if s.Begun(seq) {
			t.Errorf("%d counts as begun", seq)
		}
		if _, what := s.Entry(&durable.Entry{Seq: seq, QoS: 1}); what != Send {
			t.Errorf("got %v for %d, want it sent", what, seq)
		}
	}
	if s.Pending() != 2 {
		t.Errorf("%d are pending, want 2", s.Pending())
	}
}
