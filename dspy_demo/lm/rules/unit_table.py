"""Units and their exact sizes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: ``size`` of the base unit, plus ``offset`` (for temperatures only).

    `note` names the convention where there is more than one.
    """

    kind: str
    singular: str
    plural: str
    size: Fraction
    offset: Fraction = Fraction(0)
    note: str = ""


# Kind; then: singular | plural | size in the base unit | offset | other names | note.
_TABLE = """
length
metre|metres|1||meter,meters,m
kilometre|kilometres|1000||kilometer,kilometers,km,kms
centimetre|centimetres|1/100||centimeter,centimeters,cm
millimetre|millimetres|1/1000||millimeter,millimeters,mm
micrometre|micrometres|1/1000000||micrometer,micrometers,micron,microns,um
nanometre|nanometres|1/1000000000||nanometer,nanometers,nm
mile|miles|1609.344||mi
yard|yards|0.9144||yd,yds
foot|feet|0.3048||ft
inch|inches|0.0254||in,"
nautical mile|nautical miles|1852||nmi
light-year|light-years|9460730472580800||light year,light years,lightyear,lightyears,ly
mass
kilogram|kilograms|1||kg,kgs,kilo,kilos
gram|grams|1/1000||g,gr,gramme,grammes
milligram|milligrams|1/1000000||mg
tonne|tonnes|1000||metric ton,metric tons,t
pound|pounds|0.45359237||lb,lbs
ounce|ounces|0.028349523125||oz
stone|stone|6.35029318||stones,st
short ton|short tons|907.18474||us ton,us tons
temperature
kelvin|kelvin|1||k,kelvins
degree Celsius|degrees Celsius|1|273.15|c,celsius,°c,degrees c,degree c,degrees centigrade,centigrade
degree Fahrenheit|degrees Fahrenheit|5/9|45967/180|f,fahrenheit,°f,degrees f,degree f
volume
litre|litres|1||liter,liters,l
millilitre|millilitres|1/1000||milliliter,milliliters,ml
centilitre|centilitres|1/100||centiliter,centiliters,cl
decilitre|decilitres|1/10||deciliter,deciliters,dl
cubic metre|cubic metres|1000||cubic meter,cubic meters,m^3,m3
cubic centimetre|cubic centimetres|1/1000||cubic centimeter,cubic centimeters,cm^3,cm3,cc
gallon|gallons|3.785411784||gal,us gallon,us gallons|a US gallon
imperial gallon|imperial gallons|4.54609||uk gallon,uk gallons
quart|quarts|0.946352946||qt|a US quart
pint|pints|0.473176473||pt,us pint,us pints|a US pint
imperial pint|imperial pints|0.56826125||uk pint,uk pints
cup|cups|0.2365882365||us cup,us cups|a US cup
fluid ounce|fluid ounces|0.0295735295625||fl oz,floz|a US fluid ounce
tablespoon|tablespoons|0.01478676478125||tbsp|a US tablespoon
teaspoon|teaspoons|0.00492892159375||tsp|a US teaspoon
time
second|seconds|1||s,sec,secs
millisecond|milliseconds|1/1000||ms
microsecond|microseconds|1/1000000||us
minute|minutes|60||min,mins
hour|hours|3600||h,hr,hrs
day|days|86400||d
week|weeks|604800||wk,wks
fortnight|fortnights|1209600||
year|years|31557600||yr,yrs|a year of 365.25 days
speed
metre per second|metres per second|1||meter per second,meters per second,m/s,mps
kilometre per hour|kilometres per hour|5/18||kilometer per hour,kilometers per hour,km/h,kph,kmh,kmph
mile per hour|miles per hour|0.44704||mph,mi/h
knot|knots|463/900||kn,kt,kts
foot per second|feet per second|0.3048||ft/s,fps
data
byte|bytes|1||b
bit|bits|1/8||
kilobyte|kilobytes|1000||kb|1000 bytes
megabyte|megabytes|1000000||mb|1,000,000 bytes
gigabyte|gigabytes|1000000000||gb|1,000,000,000 bytes
terabyte|terabytes|1000000000000||tb|1,000,000,000,000 bytes
petabyte|petabytes|1000000000000000||pb
kibibyte|kibibytes|1024||kib
mebibyte|mebibytes|1048576||mib
gibibyte|gibibytes|1073741824||gib
tebibyte|tebibytes|1099511627776||tib
kilobit|kilobits|125||kbit,kbits
megabit|megabits|125000||mbit,mbits
gigabit|gigabits|125000000||gbit,gbits
area
square metre|square metres|1||square meter,square meters,m^2,m2,sqm,sq m
square kilometre|square kilometres|1000000||square kilometer,square kilometers,km^2,km2,sq km
square centimetre|square centimetres|1/10000||square centimeter,square centimeters,cm^2,cm2,sq cm
hectare|hectares|10000||ha
acre|acres|4046.8564224||ac
square foot|square feet|0.09290304||ft^2,ft2,sq ft,sqft
square inch|square inches|0.00064516||in^2,in2,sq in
square yard|square yards|0.83612736||yd^2,yd2,sq yd
square mile|square miles|2589988.110336||mi^2,mi2,sq mi
"""


def _read() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    kind = ""
    for line in _TABLE.strip().splitlines():
        if "|" not in line:
            kind = line
            continue
        singular, plural, size, offset, names, *note = line.split("|")
        unit = Unit(kind, singular, plural, Fraction(size), Fraction(offset or 0), note[-1] if note else "")
        for name in (singular, plural, *names.split(",")):
            if name:
                units[name.lower()] = unit
    return units


UNITS = _read()
