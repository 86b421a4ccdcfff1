package clock

import (
	"crypto/rand"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func machine() Source {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	boot := strings.TrimSpace(string(id))
	if err != nil || boot == "" {
		// Without /proc each process counts as a boot: time between them is then only counted if
		// the wall clock is synchronised.
		boot = rand.Text()
	}
	return Source{BootID: boot, Millis: bootMillis, Wall: wall}
}

// bootMillis reads CLOCK_BOOTTIME, which every kernel that Go runs on has.
func bootMillis() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock: internal error: CLOCK_BOOTTIME: " + err.Error())
	}
	return uint64(ts.Nano()) / uint64(time.Millisecond)
}

// wall asks the kernel what time it is and whether its clock is disciplined, which is one question: a
// clock that is set between two would be taken for synchronised at the wrong time. A sandbox may
// forbid it; then the clock is not.
func wall() (time.Time, bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return time.Now(), false
	}
	synced := state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	if math.MaxInt == math.MaxInt32 { // its seconds end in 2038 there
		return time.Now(), synced
	}
	nanos := int64(t.Time.Usec)
	if t.Status&unix.STA_NANO == 0 {
		nanos *= int64(time.Microsecond)
	}
	return time.Unix(int64(t.Time.Sec), nanos), synced
}
