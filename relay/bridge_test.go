package relay

import (
	"strings"
	"testing"
)

// Every way in through every rung out, with pion's own client and server: allocate, permission, channel, data both ways, refresh
// with lifetime 0.
func TestBridge(t *testing.T) {
	for _, rung := range []string{"udp", "tcp", "tls"} {
		ca := newTestCA(t, "cloud")
		urls := newPionRegion(t, ca)
		for _, via := range []string{"tls", "tcp", "udp"} {
			t.Run(via+" over "+rung, func(t *testing.T) {
				h := newHouse(t, []string{urls[rung]}, func(o *Options) { o.Config.Services[0].CAFile = ca.file })
				client, relayed := h.pionClient(via, pionUser, pionPassword)
				if h.Live() != 1 || h.metric("hafen_relay_allocations") != 1 {
					t.Errorf("%d allocations, metric %v", h.Live(), h.metric("hafen_relay_allocations"))
				}
				exchange(t, relayed, newEcho(t), 60)
				if up, down := h.metric("hafen_relay_bytes_total", "up"), h.metric("hafen_relay_bytes_total", "down"); up < 20000 || down < 20000 {
					t.Errorf("%v bytes up and %v down while the session lives", up, down)
				}
				st := h.Status()
				if len(st.Sessions) != 1 || st.Sessions[0].Region != "near" || !strings.HasPrefix(st.Sessions[0].Rung, rung) ||
					st.Sessions[0].Via != via || st.Sessions[0].State != "allocated" || st.Sessions[0].BytesDown < 20000 {
					t.Errorf("status %+v", st.Sessions)
				}
				_ = relayed.Close() // a Refresh with lifetime 0
				h.until("the allocation's end", func() bool { return h.Live() == 0 })
				client.Close()
			})
		}
	}
}

// The line of a session's end, and its status.
func TestBridgeEnds(t *testing.T) {
	urls := newPionRegion(t, nil)
	h := newHouse(t, []string{urls["udp"]}, nil)
	client, relayed := h.pionClient("tls", pionUser, pionPassword)
	exchange(t, relayed, newEcho(t), 1)
	_ = relayed.Close()
	client.Close()
	h.until("the allocation's end", func() bool { return h.Live() == 0 })
	conn := h.raw("tcp")
	_ = conn.conn.Close()
	h.until("a client that left early", func() bool { return h.metric("hafen_relay_sessions_ended_total", "tcp", "err_client") == 1 })
	if err := h.end(0); statusOf(err) != "err_client" {
		t.Errorf("a client that left early ends as %v", err)
	}
}
