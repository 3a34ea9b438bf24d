package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hafen/configs"
)

// Inheritance is what a process finds open when it starts: sockets that systemd has bound for it (socket activation, or its store
// of descriptors after a crash), or everything of the process whose place it takes (see handover.go).
type Inheritance struct {
	sockets []*socket
	elder   *channel   // to the process whose place is taken; nil: there is none
	elders  []*channel // to those before it
	secret  []byte     // of the test relay
}

// takeover is what a process tells its successor by takeoverVariable: which descriptor is what.
type takeover struct {
	Channel int
	Elders  []int
	Sockets []takeoverSocket
}

type takeoverSocket struct {
	Key, Network, Addr string
	FD                 int
}

// takeoverVariable does not begin with HAFEN_: those are the configuration's.
const takeoverVariable = "_HAFEN_TAKEOVER"

// Inherit finds what environ says was handed to this process.
func Inherit(environ []string) (*Inheritance, error) {
	if text := lookup(environ, takeoverVariable); text != "" {
		return inheritFromElder(text)
	}
	return inheritFromSystemd(lookup(environ, "LISTEN_PID"), lookup(environ, "LISTEN_FDS"))
}

func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

func inheritFromElder(text string) (*Inheritance, error) {
	var t takeover
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return nil, fmt.Errorf("%s: %w", takeoverVariable, err)
	}
	in := &Inheritance{}
	for _, s := range t.Sockets {
		taken, err := takeSocket(s.FD)
		if err != nil {
			return nil, fmt.Errorf("take over %s %s: %w", s.Key, s.Addr, err)
		}
		taken.place = place{s.Key, s.Network, s.Addr}
		in.sockets = append(in.sockets, taken)
	}
	for _, fd := range t.Elders {
		if c, err := takeChannel(fd); err == nil { // else it has ended meanwhile
			in.elders = append(in.elders, c)
		}
	}
	var err error
	if in.elder, err = takeChannel(t.Channel); err != nil {
		return nil, err
	}
	hello, err := in.elder.receive()
	if err != nil {
		return nil, fmt.Errorf("the process before this one said nothing: %w", err)
	}
	in.secret = hello.Secret
	return in, in.elder.send(note{Kind: notePID, PID: os.Getpid()})
}

// inheritFromSystemd takes the descriptors from 3 on, if they are meant for this process (sd_listen_fds(3)).
func inheritFromSystemd(pid, count string) (*Inheritance, error) {
	in := &Inheritance{}
	n, err := strconv.Atoi(count)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return in, nil
	}
	for fd := 3; fd < 3+n; fd++ {
		s, err := takeSocket(fd)
		if err != nil {
			return nil, fmt.Errorf("descriptor %d from systemd: %w; the .socket unit must have ListenStream= and ListenDatagram= only", fd, err)
		}
		in.sockets = append(in.sockets, s)
	}
	return in, nil
}

// takeSocket makes a socket of a descriptor, and keeps the descriptor from children.
func takeSocket(fd int) (*socket, error) {
	unix.CloseOnExec(fd)
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = f.Close() }() // net has a copy of its own
	s := &socket{}
	if kind == unix.SOCK_DGRAM {
		pc, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		var ok bool
		if s.udp, ok = pc.(*net.UDPConn); !ok {
			return nil, errors.New("it is no UDP socket")
		}
		return s, nil
	}
	s.tcp, err = net.FileListener(f)
	return s, err
}

// take finds the socket for a place: by name from the process before, by address from systemd, which knows no names of ours.
func (in *Inheritance) take(p place) *socket {
	if in == nil {
		return nil
	}
	i := slices.IndexFunc(in.sockets, func(s *socket) bool {
		return s.place == p || s.place == place{} && p.network == s.boundNetwork() && sameAddress(p.addr, s.localAddr())
	})
	if i < 0 {
		return nil
	}
	s := in.sockets[i]
	s.place = p
	in.sockets = slices.Delete(in.sockets, i, i+1)
	return s
}

func (s *socket) boundNetwork() string {
	switch {
	case s.udp != nil:
		return "udp"
	case s.tcp.Addr().Network() == "unix":
		return "unix"
	}
	return "tcp"
}

// sameAddress reports whether a configured address is the one that a socket is bound to.
func sameAddress(configured string, bound net.Addr) bool {
	if bound.Network() == "unix" {
		return configured == bound.String()
	}
	host, port, err := net.SplitHostPort(configured)
	at, ok := addrPort(bound)
	if err != nil || !ok || port != strconv.Itoa(int(at.Port())) {
		return false
	}
	if host == "" {
		return at.Addr().IsUnspecified()
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap() == at.Addr().Unmap()
}

// closeRest lets go of what the configuration has no place for.
func (in *Inheritance) closeRest() {
	if in == nil {
		return
	}
	for _, s := range in.sockets {
		s.close()
	}
	in.sockets = nil
}

// Fail tells the process before this one why it must stay. It does nothing where there is none.
func (in *Inheritance) Fail(why error) {
	if in == nil || in.elder == nil {
		return
	}
	var problems configs.Problems // a line each is worth more than their number
	if errors.As(why, &problems) {
		why = problems
	}
	_ = in.elder.send(note{Kind: noteFailed, Why: why.Error()})
}
