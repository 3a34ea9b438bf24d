package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robertkrimen/otto"
)

// calendar makes a helper of a PAC file out of a rule about the time. A last argument "GMT" says in which zone; without it
// it is the local one.
func (e *pacEngine) calendar(rule func(now time.Time, args []string) bool) func(otto.FunctionCall) otto.Value {
	return func(call otto.FunctionCall) otto.Value {
		args := make([]string, len(call.ArgumentList))
		for i, a := range call.ArgumentList {
			args[i] = strings.ToUpper(a.String())
		}
		now := e.now().Local()
		if n := len(args); n > 0 && args[n-1] == "GMT" {
			now, args = now.UTC(), args[:n-1]
		}
		return toJS(len(args) > 0 && rule(now, args))
	}
}

var (
	weekdays = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}
	months   = []string{"", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
)

// between reports whether x is within from and to, which may go around the end.
func between(x, from, to []int) bool {
	if slices.Compare(from, to) <= 0 {
		return slices.Compare(from, x) <= 0 && slices.Compare(x, to) <= 0
	}
	return slices.Compare(from, x) <= 0 || slices.Compare(x, to) <= 0
}

// weekdayRange is ("MON") or ("MON", "FRI").
func weekdayRange(now time.Time, args []string) bool {
	from, to := slices.Index(weekdays, args[0]), slices.Index(weekdays, args[len(args)-1])
	return from >= 0 && to >= 0 && between([]int{int(now.Weekday())}, []int{from}, []int{to})
}

// dateRange is (day), (month), (year), (day, month, year), or twice one, two or three of these: from and to.
func dateRange(now time.Time, args []string) bool {
	half := len(args)
	if half%2 == 0 && dateField(args[0]) == dateField(args[half/2]) {
		half /= 2
	}
	fields := make([]int, half) // what each of the arguments is: 0 year, 1 month, 2 day
	for i := range fields {
		fields[i] = dateField(args[i])
	}
	order := slices.Sorted(slices.Values(fields)) // years weigh most
	at := func(args []string) []int {
		values := make([]int, 0, half)
		for _, f := range order {
			values = append(values, dateValue(args[slices.Index(fields, f)]))
		}
		return values
	}
	today := []int{now.Year(), int(now.Month()), now.Day()}
	x := make([]int, 0, half)
	for _, f := range order {
		x = append(x, today[f])
	}
	return between(x, at(args[:half]), at(args[len(args)-half:]))
}

func dateField(arg string) int {
	switch n, err := strconv.Atoi(arg); {
	case err != nil:
		return 1
	case n <= 31:
		return 2
	}
	return 0
}

func dateValue(arg string) int {
	if n, err := strconv.Atoi(arg); err == nil {
		return n
	}
	return slices.Index(months, arg)
}

// timeRange is (hour), (hour, hour), (hour, minute, hour, minute) or (h, m, s, h, m, s). Ends count whole: until 17 is
// until 17:59:59.
func timeRange(now time.Time, args []string) bool {
	half := cmp.Or(len(args)/2, 1)
	if len(args) > 1 && len(args)%2 != 0 || half > 3 {
		return false
	}
	numbers := make([]int, len(args))
	for i, a := range args {
		n, err := strconv.Atoi(a)
		if err != nil {
			return false
		}
		numbers[i] = n
	}
	x := []int{now.Hour(), now.Minute(), now.Second()}[:half]
	return between(x, numbers[:half], numbers[len(numbers)-half:])
}
