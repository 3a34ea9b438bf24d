package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/smtp"
	"net/url"
	"time"
)

// reportPatience is how long what takes events or audit records may take to answer.
const reportPatience = 10 * time.Second

// reports tries what takes events and audit records, as far as that goes without sending any.
func (c *checkup) reports(ctx context.Context) []Finding {
	cfg := c.Config
	return []Finding{
		c.report(ctx, "events", "events.webhook", cfg.Events.Webhook, c.askWebhook),
		c.report(ctx, "events", "events.mail.server", cfg.Events.Mail.Server, c.askMail),
		c.report(ctx, "audit", "audit.syslog", cfg.Audit.Syslog, c.askSyslog),
	}
}

// report makes the finding of asking one of them. Neither finding nor error has the URL of a webhook: it may hold a secret.
func (c *checkup) report(ctx context.Context, area, key, value string, ask func(ctx context.Context, value string) (target, said string, err error)) Finding {
	f := Finding{Area: area, About: key, Verdict: Skip, Detail: key + " is not set"}
	if value == "" {
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	target, said, err := ask(ctx, value)
	f.Verdict, f.Detail, f.Target = Pass, fmt.Sprintf("%s %s", target, said), "TCP "+target
	if err != nil {
		f.Verdict, f.Detail = Warn, fmt.Sprintf("%s: %v", target, err)
		f.Todo = fmt.Sprintf("let this machine reach TCP %s, or correct %s", target, key)
	}
	return f
}

// greet connects, within the time that ctx has for all of it.
func (c *checkup) greet(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := c.g.dialReports(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if at, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(at) // fails on a closed connection only
	}
	return conn, nil
}

// secure makes the handshake, and says goodbye.
func (c *checkup) secure(ctx context.Context, addr string) error {
	conn, err := c.greet(ctx, addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	return tls.Client(conn, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
}

func (c *checkup) askWebhook(ctx context.Context, value string) (target, said string, err error) {
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" {
		return "its host", "", fmt.Errorf("it is no URL")
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	target = net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "https" {
		return target, "takes a TLS connection; nothing was posted", c.secure(ctx, target)
	}
	conn, err := c.greet(ctx, target)
	if err == nil {
		_ = conn.Close()
	}
	return target, "takes a connection; nothing was posted", err
}

func (c *checkup) askMail(ctx context.Context, addr string) (target, said string, err error) {
	conn, err := c.greet(ctx, addr)
	if err != nil {
		return addr, "", err
	}
	defer func() { _ = conn.Close() }()
	client, err := smtp.NewClient(conn, addr)
	if err != nil {
		return addr, "", err
	}
	said = "is a mail server, without STARTTLS; nothing was sent"
	if offered, _ := client.Extension("STARTTLS"); offered {
		said = "is a mail server with STARTTLS; nothing was sent"
	}
	return addr, said, client.Quit()
}

func (c *checkup) askSyslog(ctx context.Context, addr string) (target, said string, err error) {
	return addr, "takes a TLS connection; nothing was sent", c.secure(ctx, addr)
}
