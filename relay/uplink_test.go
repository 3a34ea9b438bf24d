package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hafen/configs"
)

var (
	clientAddr = netip.MustParseAddr("192.0.2.7")
	clientPort = netip.AddrPortFrom(clientAddr, 40000)
)

func listenUDP(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func count(list []string, want string) int {
	n := 0
	for _, x := range list {
		if x == want {
			n++
		}
	}
	return n
}

// AF41 is 34, which is 136 with the two bits of ECN.
func TestUplinkDSCP(t *testing.T) {
	ca := newTestCA(t, "test authority")
	for _, tt := range []struct {
		ip            string
		level, option int
	}{
		{"127.0.0.1", unix.IPPROTO_IP, unix.IP_TOS},
		{"::1", unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	} {
		one := newStandin(t, "one.test", tt.ip, 0, ca)
		for _, kind := range []string{"udp", "tcp", "tls"} {
			o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls(kind), Use: true}},
				map[string]string{"one.test": tt.ip}, nil)
			o.drive(2 * time.Second)
			raw, err := socketOf(o.opened("", "").Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var tos int
			if cerr := raw.Control(func(fd uintptr) { tos, err = unix.GetsockoptInt(int(fd), tt.level, tt.option) }); cerr != nil || err != nil {
				t.Fatal(cerr, err)
			}
			if tos != 136 {
				t.Errorf("%s over %s is marked %d, want 136", tt.ip, kind, tos)
			}
		}
	}
}

func TestUplinkWhenDead(t *testing.T) {
	cause := errors.New("dead")
	r := &regions{}
	make1 := func() *uplink {
		a, b := net.Pipe()
		t.Cleanup(func() { _ = b.Close() })
		return &uplink{Conn: a, region: &region{out: r}, path: &path{}, cause: cause}
	}
	t.Run("dies", func(t *testing.T) {
		u, calls := make1(), 0
		u.whenDead(func(err error) {
			if calls++; !errors.Is(err, cause) {
				t.Errorf("cause %v", err)
			}
			_ = u.Close() // from inside
		})
		u.die()
		u.die()
		if calls != 1 {
			t.Errorf("called %d times", calls)
		}
	})
	t.Run("has died", func(t *testing.T) {
		u, calls := make1(), 0
		u.die()
		u.whenDead(func(error) { calls++ })
		if calls != 1 {
			t.Errorf("called %d times", calls)
		}
	})
	t.Run("closed before", func(t *testing.T) {
		u, calls := make1(), 0
		u.whenDead(func(error) { calls++ })
		if err := u.Close(); err != nil {
			t.Error(err)
		}
		if err := u.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
		u.die()
		if calls != 0 {
			t.Errorf("called %d times", calls)
		}
	})
}

// What a session receives keeps a path alive that answers no probe.
func TestUplinkSawPacket(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.23.1", 0, ca)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp"), Use: true}},
		map[string]string{"one.test": "127.0.23.1"}, nil)
	o.drive(2 * time.Second)
	u, dead := o.opened("", ""), false
	u.whenDead(func(error) { dead = true })
	one.udp.Close()
	for range 50 {
		u.sawPacket()
		o.drive(200 * time.Millisecond)
	}
	if dead {
		t.Fatal("dead although its session receives")
	}
	if o.region("one").State == "up" {
		t.Error("new sessions would be put where no probe gets through")
	}
	o.drive(3 * time.Second)
	if !dead {
		t.Error("alive although nothing arrives")
	}
}

func TestUplinkStickyIsBounded(t *testing.T) {
	s := &callService{sticky: make(map[stickyClient]time.Time)}
	asked := &region{name: "asked"}
	now := time.Unix(1_800_000_000, 0)
	addr := netip.MustParseAddr("10.0.0.1")
	for range 3 * maxSticky {
		s.stick(now, asked, addr)
		if !s.isSticky(now, asked, addr) {
			t.Fatalf("%v is forgotten at once", addr)
		}
		addr = addr.Next()
	}
	if n := len(s.sticky); n > maxSticky {
		t.Errorf("%d are kept", n)
	}
	six, neighbour := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	s.stick(now, asked, six)
	if !s.isSticky(now, asked, neighbour) {
		t.Error("a client is a /64")
	}
	s.stick(now, asked, netip.Addr{})
	if s.isSticky(now, asked, netip.Addr{}) {
		t.Error("nobody sticks")
	}
}
