# ---- who else would write the RTC -----------------------------------------------------------------------------------

devices='' stopped='' covered='' cover='' hwclock=none

hold_others() { # false: why not is in $answer, and all is as it was
    stop_daemons
    free_rtc && return
    give_back
    return 1
}

give_back() {
    lend_rtc
    for entry in $stopped; do
        pid=${entry%%:*} unit=${entry##*:}
        case $unit in *.service) systemctl start "$unit" ;; *) kill -CONT "$pid" ;; esac >/dev/null 2>&1
    done
    stopped=''
}

free_rtc() { # unbinds Linux's driver, and sees to it that no shutdown writes the RTC
    for driver in $drivers; do
        set +f
        for device in "$driver"/*; do
            if [ -h "$device" ] && [ "${device##*/}" != module ]; then
                case " $devices " in *" $device "*) ;; *) devices="$devices $device" ;; esac
            fi
        done
        set -f
    done
    for device in $devices; do
        echo "${device##*/}" 2>/dev/null >"${device%/*}/unbind"
    done
    cover_hwclock
    owner=$(grep '0070-00.* : rtc' /proc/ioports 2>/dev/null) || return 0
    answer="no other-driver the ports of the RTC belong to ${owner##*: }, which cannot be unbound"
    return 1
}

lend_rtc() {
    for path in $covered; do umount -l "$path" 2>/dev/null; done
    if [ -n "$cover" ]; then rm -f "$cover"; fi
    covered='' cover=''
    for device in $devices; do
        echo "${device##*/}" 2>/dev/null >"${device%/*}/bind"
    done
}

cover_hwclock() { # mounts a program that does nothing over the guest's hwclock; never over a busybox
    hwclock=none
    for path in /sbin/hwclock /usr/sbin/hwclock /bin/hwclock /usr/bin/hwclock; do
        if [ ! -e $path ] || { [ -n "$cover" ] && [ $path -ef "$cover" ]; }; then continue; fi
        if [ $path -ef /bin/busybox ] || [ $path -ef /usr/bin/busybox ]; then hwclock=busybox && return; fi
        for each in /run /dev/shm /tmp; do
            if [ -n "$cover" ]; then break; fi
            if (printf '#!/bin/sh\nexit 0\n' >$each/.rtc-no-hwclock) 2>/dev/null; then cover=$each/.rtc-no-hwclock; fi
        done
        if [ -z "$cover" ] || ! chmod 755 "$cover" || ! mount --bind "$cover" $path 2>/dev/null; then
            hwclock=not-held && return
        fi
        covered="$covered $path" hwclock=held
    done
}

stop_daemons() { # by systemd where it runs them, which would start anew what seems to hang; any other is frozen
    set +f
    for process in /proc/[0-9]*; do
        name=''
        { read -r name <"$process/comm"; } 2>/dev/null
        case $daemons in *" $name "*) ;; *) continue ;; esac
        pid=${process#/proc/} unit=''
        case " $stopped" in *" $pid:"*) continue ;; esac
        if [ -d /run/systemd/system ]; then read -r unit <"$process/cgroup"; fi
        unit=${unit##*/}
        case $unit in
        *.service) systemctl stop "$unit" >/dev/null 2>&1 || unit= ;;
        *) unit= ;;
        esac
        if [ -n "$unit" ] || kill -STOP "$pid" 2>/dev/null; then stopped="$stopped $pid:$name:${unit:-$pid}"; fi
    done
    set -f
    # The kernel writes the RTC while a daemon's word that the clock is right holds; setting the clock ends that.
    if [ -z "$stopped" ]; then
        if [ ! -d /run/systemd/system ]; then return; fi
        case $(timedatectl show -p NTPSynchronized 2>/dev/null) in *yes) ;; *) return ;; esac
    fi
    date -s "@$(date +%s.%N)" >/dev/null 2>&1 || date -s "@$(date +%s)" >/dev/null 2>&1
}

is_stopping() {
    [ -d /run/systemd/system ] && [ "$(systemctl is-system-running 2>/dev/null)" = stopping ]
}
