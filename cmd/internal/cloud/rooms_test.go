package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"
)

func joined(t *testing.T, h *hub, id, role string) *member {
	t.Helper()
	m, err := h.join(joinRequest{room: "clinic", id: id, role: role})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// One who never reads is dropped before its mail grows without bound, and the others go on.
func TestMailIsBounded(t *testing.T) {
	h := newHub(time.Minute)
	defer h.close()
	reader, deaf := joined(t, h, anna, roleCaller), joined(t, h, berg, roleCaller)
	for i := range uint64(maxMail + 10) {
		_ = reader.send(outgoing{N: i + 1, Data: json.RawMessage("1")})
	}
	if _, err := deaf.take(t.Context(), deaf.attach(), 0); !errors.Is(err, errGone) {
		t.Errorf("one who does not read: %v", err)
	}
	if err := deaf.send(outgoing{N: 1}); !errors.Is(err, errGone) {
		t.Errorf("one who is gone sends: %v", err)
	}
	mail, err := reader.take(t.Context(), reader.attach(), 0)
	if err != nil || mail[len(mail)-1].Type != "left" || mail[len(mail)-1].Reason != "lost" {
		t.Errorf("%+v %v", mail, err)
	}
	big := joined(t, h, carl, roleCaller)
	huge := json.RawMessage(fmt.Sprintf("%q", make([]byte, maxMessage/8)))
	for range 2 * maxMailBytes / len(huge) {
		_ = reader.send(outgoing{Data: huge})
	}
	if _, err := big.take(t.Context(), big.attach(), 0); !errors.Is(err, errGone) {
		t.Errorf("one with too many bytes: %v", err)
	}
}

func TestAcknowledgedMailIsForgotten(t *testing.T) {
	h := newHub(time.Minute)
	defer h.close()
	a, b := joined(t, h, anna, roleCaller), joined(t, h, berg, roleCaller)
	holder, after := a.attach(), uint64(0)
	for i := range uint64(3 * maxMail) {
		if err := b.send(outgoing{N: i + 1, Data: json.RawMessage("1")}); err != nil {
			t.Fatal(err)
		}
		mail, err := a.take(t.Context(), holder, after)
		if err != nil {
			t.Fatal(err)
		}
		after = mail[len(mail)-1].Seq
	}
	a.acknowledged(after)
	if len(a.mail) != 0 || a.mailBytes != 0 {
		t.Errorf("%d messages, %d bytes kept", len(a.mail), a.mailBytes)
	}
}

func TestRoomsVanish(t *testing.T) {
	h := newHub(20 * time.Millisecond)
	defer h.close()
	for i := range 50 {
		joined(t, h, fmt.Sprintf("patient-%010d", i), rolePatient)
	}
	waitFor(t, "members without a connection to go", func() bool {
		rooms, members := h.population()
		return rooms == 0 && members == 0
	})
}

func TestClosedHub(t *testing.T) {
	h := newHub(time.Minute)
	m := joined(t, h, anna, roleCaller)
	holder := m.attach()
	if _, err := m.take(t.Context(), holder, 0); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		_, err := m.take(context.Background(), holder, 1)
		result <- err
	}()
	time.Sleep(20 * time.Millisecond)
	h.close()
	if err := <-result; !errors.Is(err, errClosed) {
		t.Errorf("one who waits: %v", err)
	}
	m.detach(holder)
	if _, err := h.join(joinRequest{room: "x", id: berg, role: roleCaller}); !errors.Is(err, errClosed) {
		t.Errorf("one who comes: %v", err)
	}
}
