package gateway

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the process tells its service manager (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names. Without one
// nothing is told.

// notify tells a state; descriptors that it is about go with it.
func notify(state string, fds ...int) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_ = unix.Sendmsg(fd, []byte(state), rights, &unix.SockaddrUnix{Name: name}, unix.MSG_DONTWAIT) // who is not there needs no news
}

// Notify tells the service manager a state in its own words, such as STOPPING=1.
func Notify(state string) { notify(state) }

// reloading tells that a reload has begun.
func reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // can't fail
	notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// keepWatch tells the service manager that the gateway lives, as often as it wants to hear it, until Stop. Where locks are stuck it
// stays silent, and is started anew.
func (g *Gateway) keepWatch() {
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || micros <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	g.wg.Go(func() {
		tick := time.NewTicker(time.Duration(micros) * time.Microsecond / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = g.relay.Status(), g.mux.Counts() // waits for every lock that sessions take
				_ = g.live()
				notify("WATCHDOG=1")
			case <-g.handover.gone:
				return // the successor does
			case <-g.ctx.Done():
				return
			}
		}
	})
}

// storeName is what a socket is called in the service manager's store of descriptors.
func (s *socket) storeName() string {
	return strings.ReplaceAll(s.key+"@"+s.addr, ":", "_") // a colon separates names
}

// keepInStore has the service manager keep a copy of a socket, so that it stays bound, and connections wait, while a crashed gateway
// is started anew.
func (s *socket) keepInStore() {
	if s.place.network == "unix" || os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	fd, err := s.duplicate()
	if err != nil {
		return // it is bound anew then
	}
	notify("FDSTORE=1\nFDNAME="+s.storeName(), fd)
	_ = unix.Close(fd)
}

func (s *socket) dropFromStore() {
	if s.place.network != "unix" {
		notify("FDSTOREREMOVE=1\nFDNAME=" + s.storeName())
	}
}
