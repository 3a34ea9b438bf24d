package events

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/smtp"
	"net/url"
	"sync"
	"time"
)

const (
	// maxWaiting bounds what waits for delivery; of more, the oldest goes.
	maxWaiting = 50
	// firstPause is before the second try; each further one is twice as long, longestPause at most, for giveUp in all.
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
	giveUp       = 24 * time.Hour
	tryTimeout   = 20 * time.Second
)

// outbox is what waits for delivery.
type outbox struct {
	mu      sync.Mutex
	waiting []message
	failure string // why the last try failed; "": it did not
	lost    int
	wake    chan struct{}
}

func (o *outbox) put(m message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == maxWaiting {
		o.waiting = o.waiting[1:]
		o.lost++
	}
	o.waiting = append(o.waiting, m)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) take() (message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		return message{}, false
	}
	m := o.waiting[0]
	o.waiting = o.waiting[1:]
	return m, true
}

func (o *outbox) note(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failure = ""
	if err != nil {
		o.failure = err.Error()
	}
}

// Delivery tells whether there is anywhere to deliver to, and why the last try failed.
func (n *Notifier) Delivery() (configured bool, failure string, waiting int) {
	n.outbox.mu.Lock()
	defer n.outbox.mu.Unlock()
	return n.ways.Load().Webhook != "" || n.ways.Load().MailServer != "", n.outbox.failure, len(n.outbox.waiting)
}

// Run delivers until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	for {
		m, ok := n.outbox.take()
		if !ok {
			select {
			case <-n.outbox.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		n.deliver(ctx, m)
	}
}

// deliver tries each way until it has worked once.
func (n *Notifier) deliver(ctx context.Context, m message) {
	to := n.ways.Load()
	ways := map[string]func(context.Context, message) error{}
	if to.Webhook != "" && m.report == "" {
		ways["webhook"] = n.post
	}
	if to.MailServer != "" {
		ways["mail"] = n.mail
	}
	began, pause := n.opts.Now(), n.opts.Pause
	for len(ways) > 0 && ctx.Err() == nil {
		var failed error
		for name, way := range ways {
			try, cancel := context.WithTimeout(ctx, tryTimeout)
			err := way(try, m)
			cancel()
			if err == nil {
				delete(ways, name)
				n.log.Info("incident delivered", "incident", m.Incident, "way", name)
				continue
			}
			failed = fmt.Errorf("%s: %w", name, err)
			n.log.Warn("incident not delivered", "incident", m.Incident, "way", name, "err", err)
		}
		n.outbox.note(failed)
		if failed == nil || n.opts.Now().Sub(began) > giveUp {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

// post sends it to the webhook. The URL may hold a secret, so no error names it.
func (n *Notifier) post(ctx context.Context, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.ways.Load().Webhook, bytes.NewReader(body))
	if err != nil {
		return errors.New("events.webhook is no URL")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "hafen")
	client := &http.Client{
		Transport:     &http.Transport{DialContext: n.opts.Dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", res.Status)
	}
	return nil
}

// mail hands it to the mail server, over TLS where that offers STARTTLS.
func (n *Notifier) mail(ctx context.Context, m message) error {
	conn, err := n.opts.Dial(ctx, "tcp", n.ways.Load().MailServer)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at) // fails on a closed connection only
	}
	host, _, err := net.SplitHostPort(n.ways.Load().MailServer)
	if err != nil {
		return err
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		return err
	}
	if err := c.Hello(hello(n.ways.Load().Gateway)); err != nil {
		return err
	}
	if offered, _ := c.Extension("STARTTLS"); offered {
		if err := c.StartTLS(&tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}); err != nil {
			return fmt.Errorf("STARTTLS: %w", err)
		}
	}
	if err := c.Mail(n.ways.Load().From); err != nil {
		return err
	}
	for _, to := range n.ways.Load().To {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(n.letter(m)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // the mail is accepted; how the server says goodbye does not matter
	return nil
}

// hello is the name we introduce ourselves by.
func hello(name string) string {
	if name == "" {
		return "localhost"
	}
	return name
}

// letter is the mail (RFC 5322). The text goes as base64: then no line is too long and no byte is special.
func (n *Notifier) letter(m message) []byte {
	var b bytes.Buffer
	head := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	head("From", n.ways.Load().From)
	for _, to := range n.ways.Load().To {
		head("To", to)
	}
	head("Subject", mime.QEncoding.Encode("utf-8", m.subject()))
	head("Date", m.Time.Format(time.RFC1123Z))
	head("Message-ID", fmt.Sprintf("<%s@%s>", m.Incident, hello(m.Gateway)))
	head("Auto-Submitted", "auto-generated")
	head("MIME-Version", "1.0")
	head("Content-Type", "text/plain; charset=utf-8")
	head("Content-Transfer-Encoding", "base64")
	b.WriteString("\r\n")
	text := base64.StdEncoding.EncodeToString([]byte(m.Text))
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text + "\r\n")
	return b.Bytes()
}
