-- wrk's requests, from a file: method, path, headers with tabs between them, then a body a line.
-- Eight "@" in a body become a running number, so that each order has a link of its own.

local requests, count = {}, 0

function init(args)
    local file = assert(io.open(args[1]))
    local method, path, header = file:read("*l"), file:read("*l"), file:read("*l")
    count = tonumber(args[2])
    local headers = { ["Content-Type"] = "application/x-www-form-urlencoded" }
    for name, value in header:gmatch("([^\t]-): ([^\t]*)") do headers[name] = value end
    for body in file:lines() do
        local whole = wrk.format(method, path, headers, body)
        local from, to = whole:find("@@@@@@@@", 1, true)
        if from then
            requests[#requests + 1] = { whole:sub(1, from - 1), whole:sub(to + 1) }
        else
            requests[#requests + 1] = whole
        end
    end
end

function request()
    count = count + 1
    local one = requests[count % #requests + 1]
    if type(one) == "string" then return one end
    return one[1] .. string.format("%08d", count) .. one[2]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\nFIGURES {"requests":%d,"seconds":%.6f,"size":%d,"p50":%.3f,"p99":%.3f,"failed":%d}\n',
        summary.requests, summary.duration / 1e6, summary.bytes,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout
    ))
end
