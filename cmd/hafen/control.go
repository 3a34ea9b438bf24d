package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// control asks the running gateway over its unix socket.
func control(ctx context.Context, runDir, method, path string, query url.Values) ([]byte, error) {
	socket := filepath.Join(runDir, "hafen.sock")
	client := &http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://hafen"+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no running gateway answers at %s: %w", socket, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the gateway says: %s", body)
	}
	return body, nil
}

// runDir is where the socket is: as the flag says, as the configuration says where there is one, or the default.
func runDir(w world, flagged, file string) (string, error) {
	if flagged != "" {
		return flagged, nil
	}
	if _, err := findConfig(file); err != nil && file == "" {
		return "/run/hafen", nil
	}
	cfg, err := load(w, file)
	if err != nil {
		return "", err
	}
	return cfg.RunDir, nil
}

// status prints what the running gateway says of itself.
func status(ctx context.Context, w world, args []string) error {
	fs := flags(w, "status")
	file := fs.String("config", "", "configuration `file` of the running gateway")
	dir := fs.String("run-dir", "", "its run `directory`")
	asJSON := fs.Bool("json", false, "for machines")
	asNagios := fs.Bool("nagios", false, "one line for Nagios")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	where, err := runDir(w, *dir, *file)
	if err != nil {
		return err
	}
	if *asNagios {
		return nagios(ctx, w, where)
	}
	path := "/status.txt"
	if *asJSON {
		path = "/api/v1/status"
	}
	body, err := control(ctx, where, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	_, err = w.stdout.Write(body)
	return err
}

// drain asks the running gateway to end when its live sessions have ended.
func drain(ctx context.Context, w world, args []string) error {
	fs := flags(w, "drain")
	file := fs.String("config", "", "configuration `file` of the running gateway")
	dir := fs.String("run-dir", "", "its run `directory`")
	wait := fs.Duration("wait", time.Hour, "how long live sessions may go on")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	where, err := runDir(w, *dir, *file)
	if err != nil {
		return err
	}
	body, err := control(ctx, where, http.MethodPost, "/drain", url.Values{"wait": {wait.String()}})
	if err != nil {
		return err
	}
	var answer struct{ Sessions int }
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the gateway's answer: %w", err)
	}
	fmt.Fprintf(w.stdout, "draining: %d live sessions, %v at most\n", answer.Sessions, *wait)
	return nil
}

// reloadRunning has the running gateway read its configuration again, or hand over to the program that is on the disk.
func reloadRunning(ctx context.Context, w world, args []string) error {
	fs := flags(w, "reload")
	file := fs.String("config", "", "configuration `file` of the running gateway")
	dir := fs.String("run-dir", "", "its run `directory`")
	upgrade := fs.Bool("upgrade", false, "hand over to a process of the program that is on the disk now, which reads the configuration anew")
	follow := fs.Bool("follow", false, "do that if the program on the disk is another one than the one that runs")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	where, err := runDir(w, *dir, *file)
	if err != nil {
		return err
	}
	path, query := "/reload", url.Values{}
	if *upgrade {
		path = "/upgrade"
	}
	if *follow {
		query.Set("follow", "1")
	}
	body, err := control(ctx, where, http.MethodPost, path, query)
	if err != nil {
		return err
	}
	var answer struct {
		Kept []string
		PID  int
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the gateway's answer: %w", err)
	}
	if answer.PID > 0 {
		fmt.Fprintf(w.stdout, "handed over to process %d; sessions go on in the old one to their end\n", answer.PID)
		return nil
	}
	fmt.Fprintln(w.stdout, "reloaded")
	if len(answer.Kept) > 0 {
		fmt.Fprintln(w.stdout, "taking effect at the next start or upgrade:", strings.Join(answer.Kept, ", "))
	}
	return nil
}

// explain prints both sides of one precall run.
func explain(ctx context.Context, w world, args []string) error {
	fs := flags(w, "explain")
	file := fs.String("config", "", "configuration `file` of the running gateway")
	dir := fs.String("run-dir", "", "its run `directory`")
	lang := fs.String("lang", "en", "`language` of the advice")
	code := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		code, args = args[0], args[1:]
	}
	if err := parse(fs, args, 1); err != nil {
		return err
	}
	if code == "" {
		code = fs.Arg(0)
	}
	if code == "" {
		return fmt.Errorf("explain: which test? write the code that the page showed, such as K7QF-2M: %w", errUsage)
	}
	where, err := runDir(w, *dir, *file)
	if err != nil {
		return err
	}
	body, err := control(ctx, where, http.MethodGet, "/explain.txt", url.Values{"code": {code}, "lang": {*lang}})
	if err != nil {
		return err
	}
	_, err = w.stdout.Write(body)
	return err
}
