package clock

import (
	"crypto/rand"
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

// wall asks the kernel whether its clock is disciplined. A sandbox may forbid the question; then
// the answer is no.
func wall() (time.Time, bool) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	synced := err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	return time.Now(), synced
}
