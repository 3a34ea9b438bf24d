package cloud

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pion/logging"
	"golang.org/x/time/rate"
)

// quietLoggers makes pion's loggers write to ours, a few lines a second at most: pion reports every stranger's bad
// request, so that its log is something strangers could fill a disk with.
type quietLoggers struct{ log *slog.Logger }

func (q quietLoggers) NewLogger(scope string) logging.LeveledLogger {
	return &quietLogger{log: q.log.With("scope", scope), limit: rate.NewLimiter(rate.Every(time.Second), 5)}
}

type quietLogger struct {
	log   *slog.Logger
	limit *rate.Limiter
}

func (l *quietLogger) write(level slog.Level, text string) {
	if l.limit.Allow() {
		l.log.Log(context.Background(), level, text)
	}
}

// Trace and Debug come with every packet: not even formatted.
func (l *quietLogger) Trace(string)          {}
func (l *quietLogger) Tracef(string, ...any) {}
func (l *quietLogger) Debug(string)          {}
func (l *quietLogger) Debugf(string, ...any) {}

// pion's errors are mostly clients'; nobody needs to be woken by them.
func (l *quietLogger) Info(s string)            { l.write(slog.LevelDebug, s) }
func (l *quietLogger) Infof(f string, a ...any) { l.Info(fmt.Sprintf(f, a...)) }
func (l *quietLogger) Warn(s string)            { l.write(slog.LevelInfo, s) }
func (l *quietLogger) Warnf(f string, a ...any) { l.Warn(fmt.Sprintf(f, a...)) }
func (l *quietLogger) Error(s string)           { l.write(slog.LevelInfo, s) }

func (l *quietLogger) Errorf(f string, a ...any) { l.Error(fmt.Sprintf(f, a...)) }
