package forward

import (
	"math/rand/v2"
	"testing"
	"time"
)

// world is everything around a forwarder: a disk whose writes take time, a link that loses what
// is on it when it is cut, and a remote end that keeps its session as MQTT5 §4.3 says.
type world struct {
	t *testing.T
	r *rand.Rand
	f *Forwarder
	o Options

	now  time.Duration
	disk []stored // what is in the spool, in order
	// notes are on their way to the disk; a crash loses them.
	notes []func()

	up       bool
	sent     []wire    // to the remote end
	answers  []Outcome // from it
	window   int       // announced
	session  map[Seq]bool
	late     bool // the remote end passes on QoS 2 at the release (MQTT5 §4.3.3, method B)
	fresh    bool // the remote end has lost its session
	lost     bool // it ever did
	inFlight map[Seq]bool

	qos     map[Seq]byte
	refused map[Seq]bool // for the moment, at least once
	arrived map[Seq]int
	order   []Seq
	last    Seq // appended
}

type stored struct {
	seq      Seq
	qos      byte
	received bool
	done     bool
}

type wire struct {
	m       Message
	release bool
}

func (w *world) restart() {
	if w.f != nil && w.f.forgetting {
		// Two faults at once: a remote end that lost its session, and a crash before that is
		// written. It says so only once, and whoever does not hear it cannot know.
		w.fresh = true
	}
	w.notes = nil
	w.cut()
	floor := Seq(0)
	for len(w.disk) > 0 && w.disk[0].done {
		floor = w.disk[0].seq
		w.disk = w.disk[1:]
	}
	if len(w.disk) > 0 {
		floor = w.disk[0].seq - 1
	}
	w.f = New(floor, w.o)
}

func (w *world) cut() {
	if w.up {
		w.up = false
		w.f.Disconnected()
	}
	w.sent, w.answers = nil, nil
}

func (w *world) connect() {
	w.up = true
	w.window = 1 + w.r.IntN(12)
	w.inFlight = map[Seq]bool{}
	present := !w.fresh
	if w.fresh {
		w.session = map[Seq]bool{}
	}
	w.fresh = false
	w.f.Connected(Link{SessionPresent: present, Window: w.window})
}

// pump carries out what the forwarder asks for.
func (w *world) pump() {
	for {
		if after, n, size := w.f.Want(w.now); n > 0 {
			for i := range w.disk {
				if s := &w.disk[i]; n > 0 && size > 0 && s.seq > after && !s.done {
					w.f.Offer(Message{Seq: s.seq, QoS: s.qos, Received: s.received, Size: 10})
					n--
					size -= 10
				}
			}
		}
		progress := false
		for {
			a, ok, _ := w.f.Next(w.now)
			if !ok {
				break
			}
			progress = true
			w.do(a)
		}
		check(w.t, w.f)
		if !progress {
			return
		}
	}
}

func (w *world) find(s Seq) *stored {
	for i := range w.disk {
		if w.disk[i].seq == s {
			return &w.disk[i]
		}
	}
	return &stored{}
}

func (w *world) do(a Action) {
	switch a.Kind {
	case Send:
		w.inFlight[a.Seq] = true
		if len(w.inFlight) > w.window {
			w.t.Fatalf("%d in flight, the window is %d", len(w.inFlight), w.window)
		}
		w.sent = append(w.sent, wire{m: a.Message})
	case Release:
		if !w.find(a.Seq).received {
			w.t.Fatalf("%d is released, but its note is not on disk", a.Seq)
		}
		w.sent = append(w.sent, wire{m: Message{Seq: a.Seq}, release: true})
	case Save:
		w.notes = append(w.notes, func() { w.find(a.Seq).received = true; w.f.Saved(a.Seq) })
	case Forget:
		w.notes = append(w.notes, func() {
			for i := range w.disk {
				w.disk[i].received = false
			}
			w.f.Forgotten()
		})
	case Done:
		if a.Result != Delivered {
			w.t.Fatalf("%d left as %d", a.Seq, a.Result)
		}
		w.notes = append(w.notes, func() { w.find(a.Seq).done = true })
	}
}

// remote lets the remote end take one packet.
func (w *world) remote() {
	p := w.sent[0]
	w.sent = w.sent[1:]
	seq := p.m.Seq
	switch {
	case p.release:
		w.answers = append(w.answers, Outcome{Seq: seq, Verdict: Accepted})
		if w.session[seq] && w.late {
			w.arrive(seq)
		}
		delete(w.session, seq)
		return
	case w.r.IntN(40) == 0 && !w.session[seq]:
		w.refused[seq] = true
		w.answers = append(w.answers, Outcome{Seq: seq, Verdict: Later, Code: 0x97})
		return
	case p.m.QoS == 2 && w.session[seq]:
		w.answers = append(w.answers, Outcome{Seq: seq, Verdict: Received})
		return
	case p.m.QoS == 2:
		w.session[seq] = true
		w.answers = append(w.answers, Outcome{Seq: seq, Verdict: Received})
		if w.late {
			return
		}
	default:
		w.answers = append(w.answers, Outcome{Seq: seq, Verdict: Accepted})
	}
	w.arrive(seq)
}

func (w *world) arrive(s Seq) {
	w.arrived[s]++
	w.order = append(w.order, s)
}

func (w *world) answer() {
	o := w.answers[0]
	w.answers = w.answers[1:]
	if o.Verdict != Received {
		delete(w.inFlight, o.Seq)
	}
	w.f.Report(o, w.now)
}

func (w *world) step(trouble bool) {
	w.now += time.Duration(w.r.IntN(100)) * time.Millisecond
	switch k := w.r.IntN(100); {
	case k < 10 && w.last < 300:
		for range 1 + w.r.IntN(10) {
			w.last++
			w.qos[w.last] = byte(1 + w.r.IntN(2))
			w.disk = append(w.disk, stored{seq: w.last, qos: w.qos[w.last]})
		}
	case k < 20:
		if !w.up {
			w.connect()
		}
	case k < 50 && len(w.sent) > 0:
		w.remote()
	case k < 80 && len(w.answers) > 0:
		w.answer()
	case k < 95 && len(w.notes) > 0:
		w.notes[0]()
		w.notes = w.notes[1:]
	case k == 95 && trouble:
		w.cut()
	case k == 96 && trouble && w.r.IntN(3) == 0:
		w.restart()
	case k == 97 && trouble && w.r.IntN(10) == 0 && w.lost:
		w.cut()
		w.fresh = true
	}
	w.pump()
}

func TestCutsCrashesAndLostSessionsInSimulation(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 4))
		w := &world{
			t: t, r: r, session: map[Seq]bool{}, arrived: map[Seq]int{}, qos: map[Seq]byte{}, refused: map[Seq]bool{}, inFlight: map[Seq]bool{},
			o:     Options{MaxInFlight: 1 + r.IntN(20), MaxBytes: 50 + r.IntN(200), MaxSpan: 50, Random: r.Float64},
			fresh: true,
			late:  seed%2 == 0,
			lost:  seed%4 < 2, // in half of the worlds the remote end loses sessions
		}
		w.restart()
		for range 3000 {
			w.step(true)
		}
		for range 200_000 {
			w.step(false)
			if w.last == 300 && w.f.InFlight() == 0 && len(w.notes) == 0 && w.up {
				break
			}
		}
		for s := Seq(1); s <= w.last; s++ {
			if w.arrived[s] == 0 {
				t.Fatalf("seed %d: message %d is lost, %d in flight", seed, s, w.f.InFlight())
			}
		}
		highest := map[byte]Seq{}
		seen := map[Seq]bool{}
		for _, s := range w.order {
			if seen[s] {
				if w.qos[s] == 2 && !w.lost {
					t.Fatalf("seed %d: message %d at QoS 2 arrived %d times", seed, s, w.arrived[s])
				}
				continue
			}
			seen[s] = true
			if q := w.qos[s]; s < highest[q] && !w.refused[s] {
				t.Fatalf("seed %d: message %d came behind %d", seed, s, highest[q])
			} else {
				highest[q] = max(highest[q], s)
			}
		}
	}
}
